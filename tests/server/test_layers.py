"""Layers called plainly, against Starlette's own way of calling them, and FastAPI's dependencies outside of threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware

from fedward.server.flower.layers import PlainLayer, plain, unthreaded


class Reads(BaseHTTPMiddleware):
    """Reads the body, leaves something for who comes after, and adds a header."""

    async def dispatch(self, request: Request, call_next: Any) -> Response:
        request.state.read = len(await request.body())
        response: Response = await call_next(request)
        response.headers["x-read"] = str(request.state.read)
        return response


class Refuses(BaseHTTPMiddleware):
    """Answers some requests itself, and fails at others."""

    def __init__(self, app: Any, word: str) -> None:
        super().__init__(app)
        self._word = word

    async def dispatch(self, request: Request, call_next: Any) -> Response:
        if request.url.path == f"/{self._word}":
            raise HTTPException(401, "not you")
        if request.url.path == "/answered":
            return PlainTextResponse("by the layer", 202)
        response: Response = await call_next(request)
        return response


async def translates(request: Request, call_next: Any) -> Response:
    try:
        response: Response = await call_next(request)
    except HTTPException as error:
        return JSONResponse({"detail": error.detail}, error.status_code, headers={"x-translated": "yes"})
    except ZeroDivisionError:
        return PlainTextResponse("a number", 500)
    return response


class DoesNothing(Reads):
    """Stands for a layer of the enterprise edition, by its name."""


DoesNothing.__name__ = "ControlLicenseMiddleware"


def look_up(request: Request) -> str:
    """A dependency that is no coroutine."""
    return f"{threading.current_thread().name} {request.url.path}"


class LooksUp:
    def __call__(self, found: Annotated[str, Depends(look_up)]) -> str:
        return found


def held() -> Iterator[str]:
    yield "held"


LOOKS_UP = LooksUp()


def application(way: Callable[[list[Middleware]], list[Middleware]]) -> FastAPI:
    layers = [
        Middleware(BaseHTTPMiddleware, dispatch=translates), Middleware(Reads), Middleware(Refuses, "refused"),
        Middleware(DoesNothing),
    ]  # fmt: skip
    app = FastAPI(middleware=layers)
    app.user_middleware = way(app.user_middleware)

    @app.post("/echo")
    async def echo(request: Request) -> Response:
        return Response(
            await request.body(), 201, {"x-own": "kept", "x-state": str(request.state.read)}, "application/x"
        )

    @app.post("/fails")
    async def fails() -> Response:
        return Response(str(1 // 0))

    @app.get("/thread")
    def thread(
        direct: Annotated[str, Depends(look_up)], below: Annotated[str, Depends(LOOKS_UP)],
        other: Annotated[str, Depends(held)],
    ) -> list[str]:  # fmt: skip
        return [direct, below, other]

    return app


async def ask(app: FastAPI, method: str, path: str, body: bytes = b"") -> tuple[int, bytes, dict[str, str]]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://here") as client:
        found = await client.request(method, path, content=body)
    return found.status_code, found.content, dict(found.headers)


@pytest.mark.anyio
@pytest.mark.parametrize("path", ["/echo", "/refused", "/answered", "/fails", "/nowhere"])
async def test_a_plain_layer_answers_as_starlette_s_own_does(path: str) -> None:
    own = application(lambda layers: [layer for layer in layers if layer.cls is not DoesNothing])
    body = bytes(range(256)) * 300
    expected = await ask(own, "POST", path, body)
    assert await ask(application(plain), "POST", path, body) == expected
    assert expected[0] == {"/echo": 201, "/refused": 401, "/answered": 202, "/fails": 500, "/nowhere": 404}[path]


def test_what_does_nothing_is_left_out_and_the_order_stays() -> None:
    layers = application(plain).user_middleware
    assert [layer.cls for layer in layers] == [PlainLayer] * 3
    assert [layer.args[0] for layer in layers] == [BaseHTTPMiddleware, Reads, Refuses]


@pytest.mark.anyio
async def test_dependencies_are_called_in_the_loop_s_thread_and_others_stay_as_they_are() -> None:
    before, after = application(plain), application(plain)
    assert unthreaded(after) == 4
    here = threading.current_thread().name
    _, threaded, _ = await ask(before, "GET", "/thread")
    _, found, _ = await ask(after, "GET", "/thread")
    assert here.encode() not in threaded
    assert found == f'["{here} /thread","{here} /thread","held"]'.encode()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
