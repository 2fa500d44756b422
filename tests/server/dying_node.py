"""A hospital's loop in a process of its own, which takes a message and never answers it: `python dying_node.py ADDRESS FILE`.

ADDRESS is the repr of a FleetAddress's fields in JSON; FILE is the session's file. It says "taken" when it has a message.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

from fedward.client.flower import FleetAddress, FleetLoop


def handle(request: bytes) -> Any:
    print("taken", flush=True)  # noqa: T201 - the test waits for it
    time.sleep(600)
    raise RuntimeError(f"nobody killed this process in ten minutes ({len(request)} bytes)")


def main() -> None:
    files = {name: Path(value) for name, value in json.loads(sys.argv[1])["files"].items()}
    address = FleetAddress("127.0.0.1", json.loads(sys.argv[1])["port"], **files)
    FleetLoop(address, handle, report=lambda *_: None, stop=threading.Event(), session_file=Path(sys.argv[2])).run()


if __name__ == "__main__":
    main()
