"""Which versions work together: the protocol that this wheel speaks, those that it understands, and what it was tested with.

`PROTOCOL` goes up by one whenever a message, a manifest or a step of secure aggregation changes in a way that an older wheel
would refuse or misread. Every message names the protocol of its sender; what is outside `WORKS_WITH` is refused by name
(`version-mismatch`) before anything else of it is read. docs/compatibility.md says which wheels speak which protocol.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from types import MappingProxyType
from typing import Final

from fedward.privacy.errors import RefusalError

PROTOCOL: Final = 1
"""What this wheel speaks."""

WORKS_WITH: Final = range(1, 2)
"""The protocols of the other side that this wheel understands."""

CODE: Final = "version-mismatch"


@dataclass(frozen=True)
class Known:
    """The version that Fedward was tested with, and the range within which it may differ: [least, below)."""

    tested: str
    least: tuple[int, ...]
    below: tuple[int, ...] | None = None


TESTED: Final[Mapping[str, Known]] = MappingProxyType(
    {
        "flwr": Known("1.42.0", (1, 42), (1, 43)),
        "torch": Known("2.13.0", (2, 6)),
        "opacus": Known("1.6.0", (1, 6), (1, 7)),
        "opendp": Known("0.16.0", (0, 16), (0, 17)),
        "dp-accounting": Known("0.6.0", (0, 6), (0, 7)),
        "cryptography": Known("50.0.2", (45,)),
        "numpy": Known("2.4.6", (2, 0)),
        "pandas": Known("3.1.1", (2, 2)),
        "pydantic": Known("2.14.4", (2, 10)),
        "SQLAlchemy": Known("2.1.9", (2, 0)),
        "httpx": Known("0.28.1", (0, 28)),
    }
)
"""What privacy and the wire depend on. tests/study/test_versions.py holds it beside constraints.txt and pyproject.toml."""


def installed(package: str) -> str | None:
    """The installed version of a package, without a local part such as torch's `+cpu`; None if it is missing."""
    try:
        return version(package).partition("+")[0]
    except PackageNotFoundError:
        return None


def in_range(found: str, tested: Known) -> bool:
    """Whether a version lies in the range; one that is no plain release, such as a candidate, does not."""
    try:
        numbers = tuple(int(part) for part in found.split("."))
    except ValueError:
        return False
    return numbers >= tested.least and (tested.below is None or numbers < tested.below)


def check_protocol(spoken: object, who: str) -> None:
    """
    Args:
        spoken: the protocol that a message names; anything but a whole number counts as none.
        who: whose message it is.

    Raises:
        RefusalError: `version-mismatch`: it is outside `WORKS_WITH`.
    """
    if type(spoken) is int and spoken in WORKS_WITH:
        return
    newer = type(spoken) is int and spoken >= WORKS_WITH.stop
    span = f"{WORKS_WITH.start}" if len(WORKS_WITH) == 1 else f"{WORKS_WITH.start} to {WORKS_WITH.stop - 1}"
    raise RefusalError(
        f"{who} speaks another version of Fedward's protocol",
        expected=f"protocol {span}",
        got=f"protocol {spoken}" if type(spoken) is int else "a message that names none",
        remedy="update this side"
        if newer
        else "the other side must update; docs/compatibility.md says to which version",
        code=CODE,
    )
