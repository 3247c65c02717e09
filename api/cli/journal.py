"""What a command logs on stderr: one readable line per thing, or one line of JSON with `--log-format json`."""

from __future__ import annotations

import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import TextIO

import msgspec

from api.cli.text import visible
from api.settings import Settings


class LineFormat(logging.Formatter):
    """Time, level and text on one line. Of an exception the last line, or with `debug` the whole traceback."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self._settings = settings

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, tz=UTC).astimezone()
        line = f"{moment:%Y-%m-%d %H:%M:%S}.{int(record.msecs):03d} {record.levelname.lower():<7} {self.told(record)}"
        if record.exc_info and self._settings.debug:
            line += "\n" + "".join(traceback.format_exception(*record.exc_info)).rstrip()
        return line

    def told(self, record: logging.LogRecord) -> str:
        """The message on one line, without passwords, with what was raised."""
        text = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            text += f" ({type(record.exc_info[1]).__name__}: {record.exc_info[1]})"
        return visible(self._settings.hide(text))


class JsonFormat(LineFormat):
    """The same as one JSON object: time, level, logger, message, and the traceback of an exception."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": datetime.fromtimestamp(record.created, tz=UTC),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": self._settings.hide(record.getMessage()),
        }
        if record.exc_info:
            fields["traceback"] = self._settings.hide("".join(traceback.format_exception(*record.exc_info)))
        return msgspec.json.encode(fields).decode()


class Stderr(logging.StreamHandler[TextIO]):
    """Writes to what sys.stderr is at that moment: a live display puts lines above itself."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:
        return sys.stderr

    @stream.setter
    def stream(self, _: TextIO) -> None:
        raise AttributeError("this handler follows sys.stderr")


def log_to_stderr(settings: Settings, *, level: int = logging.WARNING) -> None:
    """Send what Headway logs to stderr, from `level` on; what libraries log from warnings on. Called once."""
    handler = Stderr()
    handler.setFormatter((JsonFormat if settings.log_format == "json" else LineFormat)(settings))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("headway").setLevel(level)
