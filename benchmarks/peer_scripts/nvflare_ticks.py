"""Notes in a file when each of NVFLARE's rounds ended: a component of its simulated server."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from nvflare.apis.fl_component import FLComponent
from nvflare.app_common.app_event_type import AppEventType


class Ticks(FLComponent):  # type: ignore[misc]  # nvflare is not in this environment
    """Writes a line, seconds since the epoch, after each aggregation."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def handle_event(self, event_type: str, fl_ctx: Any) -> None:  # noqa: ARG002
        """Called by NVFLARE."""
        if event_type == AppEventType.AFTER_AGGREGATION:
            with Path(self.path).open("a") as file:
                file.write(f"{time.time()}\n")
