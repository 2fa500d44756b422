"""Make the control plane's Python from coordinator.proto: `python scripts/control_stubs.py [--check]`."""

from __future__ import annotations

import sys
import tempfile
from importlib import resources
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "server" / "fedward" / "server" / "control"
NAMES = ("coordinator_pb2.py", "coordinator_pb2.pyi", "coordinator_pb2_grpc.py")


def made() -> dict[str, str]:
    """The files' texts by their names, as grpcio-tools makes them."""
    from grpc_tools import protoc  # noqa: PLC0415

    root = FOLDER.parents[2]
    well_known = str(resources.files("grpc_tools") / "_proto")
    with tempfile.TemporaryDirectory() as out:
        proto = (FOLDER / "coordinator.proto").relative_to(root)
        code = protoc.main(
            ["", f"-I{root}", f"-I{well_known}", f"--python_out={out}", f"--pyi_out={out}", f"--grpc_python_out={out}",
             str(root / proto)]
        )  # fmt: skip
        if code:
            sys.exit(f"protoc ended with {code}")
        folder = Path(out) / proto.parent
        return {name: (folder / name).read_text() for name in NAMES}


def main() -> None:
    stale = [
        name for name, text in made().items() if not (FOLDER / name).is_file() or (FOLDER / name).read_text() != text
    ]
    if "--check" in sys.argv[1:]:
        sys.exit(f"made from another coordinator.proto: {', '.join(stale)}" if stale else 0)
    for name, text in made().items():
        (FOLDER / name).write_text(text)
        print(FOLDER / name)


if __name__ == "__main__":
    main()
