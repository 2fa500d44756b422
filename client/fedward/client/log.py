"""The hospital's own log: JSON lines in its home folder. It never leaves; replies carry only a code and a reference."""

from __future__ import annotations

import json
import logging
import secrets
import traceback
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path

from fedward.privacy.errors import FedwardError


class SiteLog:
    """Writes one line an event. `keep` files of 5 MB each; the newest is `site.log`."""

    def __init__(self, path: Path, *, keep: int = 10) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.parent.chmod(0o700)
        self._handler = RotatingFileHandler(path, maxBytes=5_000_000, backupCount=keep, encoding="utf-8")
        self._handler.setFormatter(logging.Formatter("%(message)s"))

    def write(self, event: str, text: str = "", **fields: str | int | float | None) -> None:
        line = {"at": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, "text": text, **fields}
        record = logging.LogRecord("site", logging.INFO, "", 0, json.dumps(line, ensure_ascii=False), None, None)
        self._handler.emit(record)

    def error(self, error: BaseException, **fields: str | int | float | None) -> str:
        """Record an error whole, for this hospital only; returns the reference that may leave."""
        reference = secrets.token_hex(6)
        trace = "" if isinstance(error, FedwardError) else "".join(traceback.format_exception(error))
        self.write("error", str(error), reference=reference, kind=type(error).__name__, trace=trace, **fields)
        return reference

    def close(self) -> None:
        self._handler.close()
