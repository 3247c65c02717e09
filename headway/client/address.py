"""Where a client talks to, and with which secret. What both shells share; no I/O."""

from __future__ import annotations

import logging
import math
import ssl
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import urlsplit

import httpx

from headway.client.calls import Request
from headway.client.errors import BadAnswer, ClientError, Unreachable
from headway.client.retrying import Backoff
from headway.client.values import StreamToken
from headway.errors import Misuse

logger = logging.getLogger("headway.client")

TIMEOUT: Final = 30.0  # seconds for a call with all its tries
CONNECT: Final = 5.0  # seconds
SILENCE: Final = 45.0  # seconds; the server says something every 15
MAX_ANSWER: Final = 64 * 1024 * 1024  # bytes
MAX_REFUSAL: Final = 64 * 1024  # bytes of an answer that is no stream

Token = str | StreamToken
Renewal = Callable[[], Token]
AsyncRenewal = Callable[[], Token | Awaitable[Token]]
Verify = bool | ssl.SSLContext


class Secret:
    """A text that is not shown."""

    __slots__ = ("value",)

    def __init__(self, value: str) -> None:
        self.value = value

    def __repr__(self) -> str:
        return "***"


class Address:
    """A server's address with a key, or with a stream token that may be had anew."""

    def __init__(self, url: str, key: str | None, token: Token | Callable[[], Any] | None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise Misuse("url: http://HOST:PORT or https://HOST:PORT")
        if parts.username is not None or parts.query or parts.fragment:
            raise Misuse("url: only scheme, host, port and path; the key goes into key=")
        if key is not None and token is not None:
            raise Misuse("give a key or a token, not both")
        self.url = url.rstrip("/")
        if self.url.endswith("/v1"):
            raise Misuse("url: leave out /v1 at its end, the client adds it")
        self.get_token = token if callable(token) else None
        self._secret = None if key is None else checked(key, "key")
        if token is not None and not callable(token):
            self.use(token)

    def use(self, token: Token) -> None:
        """Take this stream token from now on."""
        self._secret = checked(token.token if isinstance(token, StreamToken) else token, "token")

    @property
    def wants_token(self) -> bool:
        """Whether a token has to be had before anything can be asked."""
        return self._secret is None and self.get_token is not None

    def http(self, request: Request) -> httpx.Request:
        headers = httpx.Headers({"user-agent": "headway-client", **request.headers})
        if self._secret is not None:
            headers["authorization"] = f"Bearer {self._secret.value}"
        return httpx.Request(request.method, self.url + request.target, headers=headers, content=request.body)


def checked(secret: Any, name: str) -> Secret:
    """Refused here, because what HTTP can't carry would be shown in its error."""
    if not isinstance(secret, str) or not secret or not all("!" <= char <= "~" for char in secret):
        raise Misuse(f"{name}: a text of visible ASCII characters without spaces (it is not shown here)")
    return Secret(secret)


class Tries:
    """The tries of one call: `remaining()` seconds are left; `pause(error)` says how long to wait, or raises it."""

    def __init__(self, timeout: float) -> None:
        if not 0 < timeout < math.inf:
            raise Misuse("timeout: seconds above 0")
        self._deadline = time.monotonic() + timeout
        self._backoff = Backoff()

    def remaining(self) -> float:
        return max(0.001, self._deadline - time.monotonic())

    def over(self) -> bool:
        return time.monotonic() >= self._deadline

    def pause(self, error: ClientError) -> float:
        if not error.retryable:
            raise error
        pause = self._backoff.next(getattr(error, "retry_after", None) or 0.0)
        if time.monotonic() + pause >= self._deadline:
            raise error
        return pause


def timeouts(read: float, within: float = math.inf) -> httpx.Timeout:
    """`read`: seconds without a byte; no step may take longer than `within`."""
    return httpx.Timeout(
        connect=min(CONNECT, within), read=min(read, within), write=min(read, within), pool=min(CONNECT, within)
    )


LIMITS: Final = httpx.Limits(max_connections=None, max_keepalive_connections=20)


def failure(error: httpx.HTTPError, url: str) -> ClientError:
    """What a failed exchange means. Nothing of the request is in it."""
    if isinstance(error, httpx.DecodingError):
        return BadAnswer("the answer is packed in a way that can't be unpacked")
    if isinstance(error, httpx.LocalProtocolError):
        raise Misuse("a header of this request can't be sent: visible ASCII characters only") from None
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            refused = Unreachable(f"{url}: its certificate is not trusted: {cause.verify_message}", code="untrusted")
            refused.retryable = False
            return refused
        cause = cause.__cause__ or cause.__context__
    said = str(error)[:200] or "no answer in time"
    return Unreachable(f"{url}: {said}" if isinstance(error, httpx.TransportError) else said)


def retried(error: ClientError) -> ClientError:
    """The error; raised if it does not pass by itself."""
    if not error.retryable:
        raise error
    return error


class Outage:
    """How long nobody answered a follower: one warning per outage, and an end to patience if there is one."""

    def __init__(self, url: str, give_up_after: float | None) -> None:
        self._url, self._give_up_after = url, give_up_after
        self._since: float | None = None

    def over(self) -> None:
        if self._since is not None:
            logger.info("%s: the stream is back", self._url)
        self._since = None

    def goes_on(self, why: ClientError) -> None:
        """Raises `why` when patience is over."""
        now = time.monotonic()
        if self._since is None:
            self._since = now
            logger.warning("no stream, trying again: %s", why)
        if self._give_up_after is not None and now - self._since >= self._give_up_after:
            raise why
