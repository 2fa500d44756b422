"""`fedward coordinator start` whose ServerApp is `deadly_app`, and which may be told to die at a place of its own (`deaths`).

`python deadly_service.py HOME`; both find this folder by PYTHONPATH.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path

from deaths import FOLDER, HOME, Deaths
from mortal import Places

from fedward.cli.main import run
from fedward.server import service


def main(home: Path) -> None:
    os.environ[HOME] = str(home)
    places = Places(home)
    places.report = Deaths(Path(os.environ[FOLDER]), "service").reach
    places.install()
    service.SuperLinkService = partial(service.SuperLinkService, component="deadly_app:app")  # type: ignore[misc, assignment]
    run(["coordinator", "start", "--home", str(home)])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
