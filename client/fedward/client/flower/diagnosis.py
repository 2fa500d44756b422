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
from fedward.study.connection import REFUSAL_HEADER, REFUSALS

CONNECTED: Final = "connected"
DISCONNECTED: Final = "disconnected"
RETRYING: Final = "retrying"
HANDLED: Final = "handled"
HANDLER_FAILED: Final = "handler-failed"
REQUEST_MALFORMED: Final = "request-malformed"
REQUEST_LOST: Final = "request-lost"
REPLY_LOST: Final = "reply-lost"
NODE_FAULT: Final = "node-fault"
CERTIFICATE_REFUSED: Final = "certificate-refused"
SERVER_UNTRUSTED: Final = "server-untrusted"
KEY_REFUSED: Final = "key-refused"
ACTIVATION_REFUSED: Final = "activation-refused"
CREDENTIALS_UNREADABLE: Final = "credentials-unreadable"
CLOCK_SKEW: Final = "clock-skew"
SERVER_EXPIRED: Final = "coordinator-certificate-expired"
TLS_INTERCEPTED: Final = "tls-intercepted"
TLS_TOO_OLD: Final = "tls-too-old"
PROXY_UNREACHABLE: Final = "proxy-unreachable"
PROXY_LOGIN: Final = "proxy-login"
PROXY_REFUSED: Final = "proxy-refused"
PROXY_FAILED: Final = "proxy-failed"

# Flower takes a signature that is at most 5 s ahead and 305 s old (flwr.common.constant); a second of each for the way,
# and for the coordinator's time, which comes in whole seconds.
AHEAD_S: Final = 4.0
BEHIND_S: Final = 300.0
# OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID, _CERT_HAS_EXPIRED and _HOSTNAME_MISMATCH.
_NOT_YET_VALID: Final = 9
_HAS_EXPIRED: Final = 10
_OTHER_HOST: Final = 62
_OLD_TLS: Final = frozenset({"UNSUPPORTED_PROTOCOL", "TLSV1_ALERT_PROTOCOL_VERSION", "WRONG_VERSION_NUMBER"})

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

    def failure(self, error: Exception, *, activating: bool = False, proxy: str | None = None) -> None:
        """Tell a failure of the connection by its code; `proxy` is the host and port of the proxy on the way."""
        told = _diagnose(error, activating, proxy)
        if told != self._last or time.monotonic() - self._told > _REPEAT_REPORT_S:
            self._report(*told)
            self._last, self._told = told, time.monotonic()


def _status(error: Exception) -> int | None:
    return error.response.status_code if isinstance(error, httpx.HTTPStatusError) else None


def says_unknown_node(error: Exception) -> bool:
    """Whether the SuperLink does not know the node under this identifier, as after its restart."""
    return _status(error) == httpx.codes.UNAUTHORIZED


def says_other_certificate(error: Exception) -> bool:
    """Whether the coordinator takes nothing over this certificate: only fresh files, or a person, can help."""
    return _status(error) == httpx.codes.FORBIDDEN and refusal_of(error) != ""


def says_not_yet(error: Exception) -> bool:
    """Whether the SuperLink refuses to activate the node: it is unknown, or still counts as online."""
    return _status(error) == httpx.codes.PRECONDITION_FAILED


def can_pass(error: Exception) -> bool:
    """Whether trying again may work."""
    status = _status(error)
    if status is not None:
        return status >= httpx.codes.INTERNAL_SERVER_ERROR
    return isinstance(error, (httpx.TransportError, PendingError, OSError))


def is_pending(error: Exception) -> bool:
    """Whether nothing is wrong: a part of the message has not reached the coordinator yet."""
    return isinstance(error, PendingError)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and everything that it came from."""
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__ or current.__context__


def refusal_of(error: Exception) -> str:
    """The code with which the coordinator refuses this site; empty if it gave none of its list."""
    if not isinstance(error, httpx.HTTPStatusError):
        return ""
    code = error.response.headers.get(REFUSAL_HEADER, "")
    return code if code in REFUSALS else ""


def _diagnose(error: Exception, activating: bool, proxy: str | None) -> tuple[str, str]:
    """The code and a text for the site's log. Texts are ours: nothing that the other side wrote is repeated."""
    if isinstance(error, InputError):
        return error.code, str(error)
    refusal = refusal_of(error)
    if refusal:
        return refusal, REFUSALS[refusal]
    found = _of_tls(error, activating, proxy) or _of_proxy(error, proxy) or _of_signature(error)
    if found is not None:
        return found
    if says_not_yet(error):
        text = (
            "the coordinator does not know this node key, or its last session has not lapsed yet (20 s after a crash)"
        )
        return ACTIVATION_REFUSED, text
    return RETRYING, name_of(error)


def _of_tls(error: Exception, activating: bool, proxy: str | None) -> tuple[str, str] | None:
    """What went wrong with TLS, if that did.

    A coordinator that refuses a certificate hangs up in the middle of TLS 1.3's handshake, and asyncio hangs up
    without the alert that would say why. So a fresh connection that ends before its first answer reads as a refusal.
    """
    causes = [cause for cause in _causes(error) if isinstance(cause, ssl.SSLError)]
    untrusted = next((cause for cause in causes if isinstance(cause, ssl.SSLCertVerificationError)), None)
    if untrusted is not None:
        return _untrusted(untrusted.verify_code, proxy)
    if any(cause.reason in _OLD_TLS for cause in causes):
        text = "what answers there speaks no TLS 1.3: is it the coordinator, or a proxy that opens TLS?"
        return TLS_TOO_OLD, text
    if causes or (activating and isinstance(error, (httpx.RemoteProtocolError, httpx.ReadError))):
        text = "the coordinator hung up on this site's certificate: is it of the federation's CA and still valid?"
        return CERTIFICATE_REFUSED, text + (f" Or the proxy {proxy} did." if proxy else "")
    return None


def _untrusted(verify_code: int, proxy: str | None) -> tuple[str, str]:
    if verify_code == _NOT_YET_VALID:
        return CLOCK_SKEW, "the coordinator's certificate is not valid yet by this machine's clock: set the clock"
    if verify_code == _HAS_EXPIRED:
        return SERVER_EXPIRED, "the coordinator's certificate has expired, or this machine's clock is far ahead"
    if proxy and verify_code != _OTHER_HOST:
        text = (
            f"the certificate that comes through the proxy {proxy} is not of this federation's CA: the proxy opens TLS. "
            "Ask for the coordinator's address to be exempt from TLS inspection; nothing was sent"
        )
        return TLS_INTERCEPTED, text
    text = (
        "the coordinator's certificate is not of this federation's CA or not for this host; if the network inspects TLS, "
        "ask for this address to be exempt"
    )
    return SERVER_UNTRUSTED, text


def _of_proxy(error: Exception, proxy: str | None) -> tuple[str, str] | None:
    """What went wrong with the proxy on the way, if there is one."""
    if proxy is None:
        return None
    if isinstance(error, httpx.ProxyError):  # httpx has the proxy's status nowhere but in the text
        status = str(error)[:3]
        if status in {"407", "401"}:  # tinyproxy says 401 to a wrong password
            return PROXY_LOGIN, f"the proxy {proxy} wants another user name or password: give them in the proxy's URL"
        if status in {"403", "405"}:
            text = f"the proxy {proxy} does not allow this connection: ask for CONNECT to the coordinator's address and port"
            return PROXY_REFUSED, text
        return PROXY_FAILED, f"the proxy {proxy} does not reach the coordinator"
    if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)):
        return PROXY_UNREACHABLE, f"the proxy {proxy} does not answer: is its address right, and does it run?"
    return None


def _of_signature(error: Exception) -> tuple[str, str] | None:
    """What is wrong with the node's signature over its time, if the coordinator refused that."""
    if not says_unknown_node(error):
        return None
    offset = clock_offset(error)
    if offset is not None and not -BEHIND_S < offset < AHEAD_S:
        return CLOCK_SKEW, _skew_text(offset)
    return KEY_REFUSED, "the coordinator refused the node key's signature"


def clock_offset(error: Exception) -> float | None:
    """How far this machine's clock is ahead of the coordinator's, in seconds, by the answer's Date header."""
    if not isinstance(error, httpx.HTTPStatusError):
        return None
    try:
        there = email.utils.parsedate_to_datetime(error.response.headers.get("date", ""))
    except ValueError:
        return None
    if there.tzinfo is None:  # "-0000": UTC, of an unknown local zone (RFC 5322, section 3.3)
        there = there.replace(tzinfo=datetime.UTC)
    # The header counts whole seconds: half of one is the best guess of what it cut off.
    return (_now() - there).total_seconds() - 0.5


def _now() -> datetime.datetime:
    """This machine's clock."""
    return datetime.datetime.now(datetime.UTC)


def _skew_text(offset: float) -> str:
    side = "ahead of" if offset > 0 else "behind"
    return (
        f"this machine's clock is {abs(offset):.0f} s {side} the coordinator's: the coordinator takes nothing that is more than "
        "5 s ahead or 5 min behind. Set the clock (timedatectl set-ntp true); the node goes on by itself"
    )


def name_of(error: Exception) -> str:
    """An error by its type (and HTTP status): texts of foreign errors stay out of logs."""
    status = _status(error)
    return type(error).__name__ if status is None else f"HTTP {status}"
