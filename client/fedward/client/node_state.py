"""The state file, in which a running node says how it does, for whoever asks without asking it."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fedward.client.home import SiteHome
from fedward.study.files import write_atomic
from fedward.study.lock import held


def node_lock(home: SiteHome) -> Path:
    """What a running node holds."""
    return home.path / "node.lock"


def write_state(home: SiteHome, state: str, text: str) -> None:
    """The running node's own: a connection's code, and a sentence."""
    data = {"pid": os.getpid(), "state": state, "text": text, "at": datetime.now(UTC).isoformat(timespec="seconds")}
    write_atomic(home.path / "node.json", json.dumps(data).encode())


def node_state(home: SiteHome) -> dict[str, Any]:
    """What the node last said of itself; `stopped` when no process holds its lock."""
    path = home.path / "node.json"
    if not path.is_file():
        return {"state": "never started", "text": "", "pid": None, "at": None}
    try:
        state: dict[str, Any] = json.loads(path.read_bytes())
        known = {"pid", "state", "text", "at"} <= state.keys()
    except (OSError, ValueError, AttributeError):
        known = False
    if not known:  # it holds nothing that lasts: a node that runs writes it anew
        state = {"state": "unknown", "text": "node.json is damaged", "pid": None, "at": None}
    if held(node_lock(home)):
        return state
    return state | {"state": "stopped", "pid": None}
