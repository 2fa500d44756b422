"""What became of the connection, by name: the codes that are reported, and which failures can pass."""

from __future__ import annotations

import datetime
import email.utils
import ssl
import time
from collections.abc import Callable, Iterator
from typing import Final

import httpx

from fedward.privacy.errors import InputError

CONNECTED: Final = "connected"
DISCONNECTED: Final = "disconnected"
RETRYING: Final = "retrying"
HANDLED: Final = "handled"
HANDLER_FAILED: Final = "handler-failed"
REQUEST_MALFORMED: Final = "request-malformed"
REQUEST_LOST: Final = "request-lost"
REPLY_LOST: Final = "reply-lost"
CERTIFICATE_REFUSED: Final = "certificate-refused"
SERVER_UNTRUSTED: Final = "server-untrusted"
KEY_REFUSED: Final = "key-refused"
ACTIVATION_REFUSED: Final = "activation-refused"
CREDENTIALS_UNREADABLE: Final = "credentials-unreadable"

_REPEAT_REPORT_S: Final = 60.0
Report = Callable[[str, str], None]


class PendingError(Exception):
    """An object of the message has not arrived at the SuperLink yet, or its upload has to start over."""


class MalformedError(Exception):
    """The coordinator sent something that cannot be a request of ours."""


class Reporter:
    """The site's log hook; a failure that goes on is told once a minute, not at every attempt."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._last: tuple[str, str] | None = None
        self._told = 0.0

    def __call__(self, code: str, text: str) -> None:
        self._last = None
        self._report(code, text)

    def failure(self, error: Exception, *, activating: bool = False) -> None:
        """Tell a failure of the connection by its code."""
        told = _diagnose(error, activating)
        if told != self._last or time.monotonic() - self._told > _REPEAT_REPORT_S:
            self._report(*told)
            self._last, self._told = told, time.monotonic()


def _status(error: Exception) -> int | None:
    return error.response.status_code if isinstance(error, httpx.HTTPStatusError) else None


def says_unknown_node(error: Exception) -> bool:
    """Whether the SuperLink does not know the node under this identifier, as after its restart."""
    return _status(error) == httpx.codes.UNAUTHORIZED


def says_not_yet(error: Exception) -> bool:
    """Whether the SuperLink refuses to activate the node: it is unknown, or still counts as online."""
    return _status(error) == httpx.codes.PRECONDITION_FAILED


def can_pass(error: Exception) -> bool:
    """Whether trying again may work."""
    status = _status(error)
    if status is not None:
        return status >= httpx.codes.INTERNAL_SERVER_ERROR
    return isinstance(error, (httpx.TransportError, PendingError, OSError))


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and everything that it came from."""
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__ or current.__context__


def _diagnose(error: Exception, activating: bool) -> tuple[str, str]:
    """The code and a text for the site's log. Texts are ours: nothing that the other side wrote is repeated.

    A coordinator that refuses a certificate hangs up in the middle of TLS 1.3's handshake, and asyncio hangs up
    without the alert that would say why. So a fresh connection that ends before its first answer reads as a refusal.
    """
    if isinstance(error, InputError):
        return error.code, str(error)
    causes = list(_causes(error))
    if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes):
        return SERVER_UNTRUSTED, "the coordinator's certificate is not of this federation's CA or not for this host"
    hung_up = activating and isinstance(error, (httpx.RemoteProtocolError, httpx.ReadError))
    if hung_up or any(isinstance(cause, ssl.SSLError) for cause in causes):
        text = "the coordinator hung up on this site's certificate: is it of the federation's CA and still valid?"
        return CERTIFICATE_REFUSED, text
    status = _status(error)
    if status == httpx.codes.UNAUTHORIZED:
        return KEY_REFUSED, "the coordinator refused the node key's signature" + _clock_hint(error)
    if says_not_yet(error):
        text = (
            "the coordinator does not know this node key, or its last session has not lapsed yet (20 s after a crash)"
        )
        return ACTIVATION_REFUSED, text
    return RETRYING, name_of(error)


def _clock_hint(error: Exception) -> str:
    """Flower refuses a signature from more than 5 s ahead: say so if the clocks differ."""
    if not isinstance(error, httpx.HTTPStatusError):
        return ""
    try:
        there = email.utils.parsedate_to_datetime(error.response.headers.get("date", ""))
    except ValueError:
        return ""
    if there.tzinfo is None:  # "-0000": UTC, of an unknown local zone (RFC 5322, section 3.3)
        there = there.replace(tzinfo=datetime.UTC)
    ahead = (datetime.datetime.now(datetime.UTC) - there).total_seconds()
    return f"; this machine's clock is {ahead:+.0f} s off the coordinator's" if abs(ahead) > 2 else ""


def name_of(error: Exception) -> str:
    """An error by its type (and HTTP status): texts of foreign errors stay out of logs."""
    status = _status(error)
    return type(error).__name__ if status is None else f"HTTP {status}"
