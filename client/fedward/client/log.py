"""The hospital's own log: JSON lines in its home, each encrypted. It never leaves; replies carry a code and a reference.

A line on disk is base64 of what the home's vault makes of it, so that a cut or damaged line costs no other. `read_log` opens them.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import logging
import math
import secrets
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

from fedward.privacy.errors import FedwardError


class _Quiet(RotatingFileHandler):
    """Where a line cannot be written, says so without the line: `logging` itself would print it to standard error."""

    keep_s = math.inf
    moved = False

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if self.moved:
                self.moved = False
                self.close()
            if self._is_of_another_week():
                self.doRollover()
        except OSError:
            self.handleError(record)
        super().emit(record)

    def _is_of_another_week(self) -> bool:
        """Whether the file's last line was written in another week (ISO 8601, UTC) than this."""
        try:
            found = Path(self.baseFilename).stat()
        except FileNotFoundError:
            return False
        return found.st_size > 0 and _week(found.st_mtime) != _week(time.time())

    def doRollover(self) -> None:  # noqa: N802 - logging's name
        super().doRollover()
        self.forget()

    def forget(self) -> None:
        """Remove rotated files whose last line is too old to be kept."""
        base = Path(self.baseFilename)
        for old in base.parent.glob(f"{base.name}.*"):
            with contextlib.suppress(OSError):
                if time.time() - old.stat().st_mtime > self.keep_s:
                    old.unlink()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802  # logging's name
        sys.stderr.write("the site's log cannot be written: is its disk full?\n")


def _week(at: float) -> tuple[int, int]:
    return datetime.fromtimestamp(at, UTC).isocalendar()[:2]


class _Library(logging.Handler):
    """What libraries log becomes a line of the site's log."""

    def __init__(self, log: SiteLog) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = record.getMessage()
        except Exception:  # noqa: BLE001  # a library's broken line is not worth the node
            text = "a line that cannot be shown as text"
        self._log.write("library", text, kind=record.name)


class SiteLog:
    """Writes one line an event. A file holds at most 5 MB and one week; the newest is `site.log`. Writing never raises.

    An error's text may quote the hospital's data, so a line is kept no longer than it helps to find a fault: `keep` files, and
    none whose last line is older than `keep_days`. What an auditor asks for stands in the audit log, for years.
    """

    def __init__(
        self, path: Path, seal: Callable[[bytes], bytes] | None, *, keep: int = 26, keep_days: float = 180
    ) -> None:
        """`seal` encrypts a line (`SiteHome.sealer`); None leaves it as it is, for a log that holds no hospital's data."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.parent.chmod(0o700)
        self._seal = seal
        self._handler = _Quiet(path, maxBytes=5_000_000, backupCount=keep, encoding="utf-8", errors="backslashreplace")
        self._handler.keep_s = keep_days * 86_400
        self._handler.forget()
        self._handler.setFormatter(logging.Formatter("%(message)s"))
        self._watch: Callable[[str, Mapping[str, object]], None] = lambda _event, _fields: None

    def watch(self, watcher: Callable[[str, Mapping[str, object]], None]) -> None:
        """Tell `watcher` of every event from now on, with its fields and without its text."""
        self._watch = watcher

    def reopen(self) -> None:
        """Open the file anew at the next line: another program has moved it away. For a signal's handler."""
        self._handler.moved = True

    def write(self, event: str, text: str = "", **fields: str | int | float | None) -> None:
        self._watch(event, fields)
        line = {"at": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, "text": text, **fields}
        record = logging.LogRecord("site", logging.INFO, "", 0, self._as_written(line), None, None)
        self._handler.emit(record)

    def _as_written(self, line: Mapping[str, object]) -> str:
        text = json.dumps(line, ensure_ascii=False)
        if self._seal is None:
            return text
        return base64.b64encode(self._seal(text.encode("utf-8", "backslashreplace"))).decode()

    def error(self, error: BaseException, **fields: str | int | float | None) -> str:
        """Record an error whole, for this hospital only; returns the reference that may leave."""
        reference = secrets.token_hex(6)
        try:
            text = str(error)
            trace = "" if isinstance(error, FedwardError) else "".join(traceback.format_exception(error))
        except Exception:  # noqa: BLE001  # an error that cannot even be shown is one more error to survive
            text, trace = "this error cannot be shown as text", ""
        self.write("error", text, reference=reference, kind=type(error).__name__, trace=trace, **fields)
        return reference

    def take_over(self) -> None:
        """From now on this process writes here what Python and its libraries would print: it may quote a patient's values.

        Warnings, libraries' log lines, and errors that end a thread. For a node's process, which prints nothing else.
        """
        library = _Library(self)
        for name in (None, "flwr", "py.warnings"):
            logging.getLogger(name).handlers[:] = [library] if name is None else []
            logging.getLogger(name).propagate = True
        logging.captureWarnings(True)
        threading.excepthook = self._thread_failed

    def _thread_failed(self, args: threading.ExceptHookArgs) -> None:
        if args.exc_value is not None:
            self.error(args.exc_value, code="thread-failed")

    def close(self) -> None:
        self._handler.close()


def read_log(path: Path, unseal: Callable[[bytes], bytes]) -> Iterator[dict[str, Any]]:
    """Every line of a sealed log and of its rotated files, oldest first; one that is cut or damaged is an event `unreadable`."""
    rotated = sorted(path.parent.glob(path.name + ".*"), key=lambda file: -int(file.suffix[1:] or 0))
    for file in (*rotated, path):
        if not file.is_file():
            continue
        with file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                yield _read_line(line.rstrip(b"\n"), unseal) or {
                    "at": "", "event": "unreadable", "text": f"line {number} of {file.name} is cut or damaged",
                }  # fmt: skip


def _read_line(line: bytes, unseal: Callable[[bytes], bytes]) -> dict[str, Any] | None:
    try:
        found = json.loads(unseal(base64.b64decode(line, validate=True)))
    except (binascii.Error, ValueError, FedwardError):
        return None
    return found if isinstance(found, dict) else None
