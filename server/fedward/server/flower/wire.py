"""The HTTP below Flower's clients on the coordinator's machine: straight to the loopback listener, and bounded."""

from __future__ import annotations

import contextlib
import io
import ssl
from collections.abc import Iterator, Mapping
from typing import Any, Final

import httpx

LOOPBACK: Final = "127.0.0.1"
NEWS: Final = "/fedward/news"
DOOR_HEADER: Final = "fedward-door"
# The ServerApp waits its turn among the sites: hanging up early would only queue the same request again.
_ANSWER_S: Final = 20.0


class TooLargeError(ValueError):
    """A response is larger than its bound."""


class DirectSend:
    """Sends Flower's requests straight to the loopback listener, past any proxy, and bounds what comes back.

    The last interceptor of a Flower client's chain: it does not call the next one, which would be Flower's transport.
    """

    def __init__(self, max_bytes: int, headers: Mapping[str, str] | None = None) -> None:
        self._wire = httpx.Client(trust_env=False, follow_redirects=False, timeout=_ANSWER_S)
        self._max_bytes = max_bytes
        self._headers = dict(headers or {})

    def intercept(self, context: Any, call_next: object) -> httpx.Response:
        """Send one request. Raises: httpx.HTTPError, or TooLargeError."""
        del call_next
        context.request.headers.update(self._headers)
        response = self._wire.send(context.request, stream=True)
        with contextlib.closing(response):
            body = self._body(response)
        # The body is decoded already; these two headers would make httpx decode it again.
        headers = [(k, v) for k, v in response.headers.items() if k not in {"content-encoding", "content-length"}]
        return httpx.Response(response.status_code, headers=headers, content=body, request=response.request)

    @contextlib.contextmanager
    def at_most(self, max_bytes: int) -> Iterator[None]:
        """Within the block, responses are bounded more closely."""
        usual, self._max_bytes = self._max_bytes, min(self._max_bytes, max_bytes)
        try:
            yield
        finally:
            self._max_bytes = usual

    def ring(self, url: str) -> None:
        """Wake the sites' held polls; if it fails they wake a little later by themselves."""
        with contextlib.suppress(httpx.HTTPError):
            self._wire.post(url)

    def _body(self, response: httpx.Response) -> bytes:
        found = io.BytesIO()  # no second copy of a large object, as a list of chunks would need
        for chunk in response.iter_bytes():
            if found.tell() + len(chunk) > self._max_bytes:
                raise TooLargeError
            found.write(chunk)
        return found.getvalue()


def flower_client(kind: Any, address: str, interceptors: list[Any]) -> Any:
    """A Flower client whose own transport is never used; the context keeps it from loading a CA bundle for nothing."""
    unused = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return kind(f"http://{address}", interceptors=interceptors, verify=unused)
