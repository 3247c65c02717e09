"""What a Litestar route raised, as a problem document."""

from __future__ import annotations

from typing import Any

from litestar import Response
from litestar.exceptions import HTTPException, ValidationException

from api.answers import exchange_of
from api.problems import MalformedRequest, problem_of


def to_response(request: Any, error: Exception) -> Response[bytes]:
    if isinstance(error, ValidationException):
        extra: Any = error.extra
        first = extra[0] if isinstance(extra, list) and extra else {}
        field, message = first.get("key", "request"), first.get("message", error.detail)
        error = MalformedRequest(f"{field}: {message}", field=field)
    elif isinstance(error, HTTPException) and error.status_code == 400:
        error = MalformedRequest(error.detail)
    problem = problem_of(error, exchange_of(request).request_id)
    headers = dict(problem.headers)
    return Response(problem.body, status_code=problem.status, media_type=headers.pop("content-type"), headers=headers)
