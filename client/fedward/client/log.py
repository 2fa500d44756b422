"""The hospital's own log: JSON lines in its home folder. It never leaves; replies carry only a code and a reference."""

from __future__ import annotations

import json
import logging
import secrets
import sys
import threading
import traceback
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path

from fedward.privacy.errors import FedwardError


class _Quiet(RotatingFileHandler):
    """Where a line cannot be written, says so without the line: `logging` itself would print it to standard error."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802  # logging's name
        sys.stderr.write("the site's log cannot be written: is its disk full?\n")


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
    """Writes one line an event. `keep` files of 5 MB each; the newest is `site.log`. Writing never raises."""

    def __init__(self, path: Path, *, keep: int = 10) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.parent.chmod(0o700)
        self._handler = _Quiet(path, maxBytes=5_000_000, backupCount=keep, encoding="utf-8", errors="backslashreplace")
        self._handler.setFormatter(logging.Formatter("%(message)s"))

    def write(self, event: str, text: str = "", **fields: str | int | float | None) -> None:
        line = {"at": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, "text": text, **fields}
        record = logging.LogRecord("site", logging.INFO, "", 0, json.dumps(line, ensure_ascii=False), None, None)
        self._handler.emit(record)

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
