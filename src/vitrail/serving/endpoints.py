"""What the endpoints are made of: a route with a name, an answer in JSON, and the two ways in which one ends early."""

import itertools
import json
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vitrail.errors import LONGEST_PART, shown

Endpoint = Callable[[Request], Awaitable[Response]]
_STARTED, _NUMBERS = secrets.token_hex(4), itertools.count()
ROUTE = "vitrail.route"
"""Where the pattern of a request's address stands in its scope: what the log and the metrics call it."""


class Failure(Exception):
    """A request that is not answered as it wishes.

    Args:
        status: of HTTP.
        error: one line.
        reason: how it is counted among those that were refused; empty: not.
        retry_after: seconds; 0: none.
        more: further keys of the JSON.
    """

    def __init__(
        self,
        status: int,
        error: str,
        *,
        got: object = None,
        expected: object = None,
        do: str | None = None,
        reason: str = "",
        retry_after: int = 0,
        more: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(error)
        self.status, self.reason = status, reason
        self.headers = {**({"retry-after": str(retry_after)} if retry_after else {}), **(headers or {})}
        parts = {"error": error, "got": got, "expected": expected, "do": do}
        self.values: dict[str, Any] = {
            key: None if part is None else shown(part, LONGEST_PART) for key, part in parts.items()
        }
        self.values |= more or {}


class Left(Exception):
    """The client left before its answer was ready."""


def new_id() -> str:
    """Names a request in its answer and in the log."""
    return f"{_STARTED}{next(_NUMBERS):08x}"


def answer(values: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """An answer in JSON."""
    content = json.dumps(values, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    return Response(content, status, headers, "application/json")


def route(path: str, endpoint: Endpoint, *methods: str) -> Route:
    """A route that the log and the metrics know by its pattern."""

    async def named(request: Request) -> Response:
        request.scope[ROUTE] = path
        return await endpoint(request)

    return Route(path, named, methods=list(methods))
