"""Flower's layers around a request, without what Starlette and FastAPI do for applications that are not like it.

`BaseHTTPMiddleware` runs what it wraps in a task of its own and passes the answer on through a memory stream, so that answers may
stream. Four such layers take two thirds of a small request's time, and no answer that the coordinator asks for streams. What the
layers do (who may call, the wire's form, errors in words of Flower's own) stays Flower's code: only the plumbing is ours.

What a handler depends on (the state, the task of a token, the caller's version) FastAPI calls in a thread each, as it might wait
for something. These look into memory: going to a thread and back is fifty times their work, so they are called where they are.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import iter_route_contexts
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import Response

from fedward.server.flower.large import Asgi, Receive, Scope, Send, again

# Layers that do nothing without Flower's enterprise edition.
IDLE_LAYERS: Final = frozenset(
    {
        "ControlSensitiveResponseMiddleware",
        "ControlLicenseMiddleware",
        "ControlEventLogMiddleware",
        "FleetEventLogMiddleware",
    }
)

Dispatch = Callable[[Request, Callable[[Request], Awaitable[Response]]], Awaitable[Response]]


def plain(layers: list[Middleware]) -> list[Middleware]:
    """The same layers, in the same order: the idle ones left out, those of `BaseHTTPMiddleware` as `PlainLayer`s."""
    found = []
    for layer in layers:
        if getattr(layer.cls, "__name__", "") in IDLE_LAYERS:
            continue
        kind: Any = layer.cls
        is_base = isinstance(kind, type) and issubclass(kind, BaseHTTPMiddleware)
        found.append(Middleware(PlainLayer, kind, layer.args, layer.kwargs) if is_base else layer)
    return found


class PlainLayer:
    """One layer: its `dispatch` around the application, whose answer it is given as a whole."""

    def __init__(self, app: Asgi, kind: Callable[..., BaseHTTPMiddleware], args: Any, kwargs: Any) -> None:
        self._app = app
        self._dispatch: Dispatch = kind(app, *args, **kwargs).dispatch_func

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)

        async def call_next(_request: Request) -> Response:
            read = getattr(request, "_body", None)  # by this layer, and to be had by the next
            return await _answer(self._app, scope, receive if read is None else again(read, receive))

        response = await self._dispatch(request, call_next)
        await response(scope, receive, send)


async def _answer(app: Asgi, scope: Scope, receive: Receive) -> Response:
    start: MutableMapping[str, Any] = {}
    body: list[bytes] = []

    async def keep(event: MutableMapping[str, Any]) -> None:
        if event["type"] == "http.response.start":
            start.update(event)
        elif event.get("body"):
            body.append(event["body"])

    await app(scope, receive, keep)
    if not start:
        raise RuntimeError("the application gave no answer")
    response = Response(body[0] if len(body) == 1 else b"".join(body), start["status"])
    response.raw_headers = list(start.get("headers", ()))
    return response


def unthreaded(application: FastAPI) -> int:
    """Let what handlers depend on be called in the event loop; how many dependencies were found. Before the first request."""
    found: dict[int, Dependant] = {}
    for context in iter_route_contexts(application.routes):
        for owner in (context, getattr(context, "original_route", None)):
            if isinstance(dependant := getattr(owner, "dependant", None), Dependant):
                found |= {id(one): one for one in _below(dependant)}
    for dependant in found.values():
        call = dependant.call
        if (
            call is None
            or dependant.is_coroutine_callable
            or dependant.is_gen_callable
            or dependant.is_async_gen_callable
        ):
            continue
        dependant.call = _in_loop(call)
        for name in ("cache_key", "is_coroutine_callable", "is_gen_callable", "is_async_gen_callable"):
            vars(dependant).pop(name, None)  # what was found out of the call before
    return len(found)


def _below(dependant: Dependant) -> list[Dependant]:
    """All that it depends on, directly or not."""
    return [one for child in dependant.dependencies for one in (child, *_below(child))]


@functools.cache
def _in_loop(call: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
    """The same wrapper for the same call: FastAPI asks each only once in a request."""

    async def called(*args: Any, **kwargs: Any) -> Any:
        return call(*args, **kwargs)

    return called
