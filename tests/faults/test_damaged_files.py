"""Every file of a hospital's home, damaged in every way: each is named, or nothing of what it stood for is lost. Never a traceback,
never a fresh start in silence, never less ε.

The files are found by walking the home. `make test` takes some, drawn with a fixed seed, and all damages of the ledger's;
`make prove` takes all.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import pytest
from damages import DAMAGES, Damaged, NotThereError, general

from fedward.client.home import SiteHome

EVERYTHING = os.environ.get("FEDWARD_DAMAGES") == "all"
SAMPLE = 5
pytestmark = pytest.mark.timeout(3600 if EVERYTHING else 300)

BINDING = ("ledger.sqlite", "ledger.sqlite.head", "approvals/decisions.json", "keys/", "federation.json", "audit/tree")
"""What must be named whatever is wrong with its content: the ledger, decisions, keys, the coordinator's key, the log's tree."""
MENDED = {
    ("audit/tree", "emptied"), ("audit/tree", "cut in half"), ("audit/tree", "an older copy"),
    ("ledger.sqlite", "open to others"), ("ledger.sqlite.head", "open to others"), ("audit/tree", "open to others"),
    ("federation.json", "open to others"),
}  # fmt: skip
"""But for what is made again from what is whole, and for public files, or files in a folder that others cannot enter."""
STARTS = ("keys/node.pem", "keys/tls.pem")


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Damaged]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("FEDWARD_PASSPHRASE_FILE", raising=False)
        yield Damaged(tmp_path_factory.mktemp("damaged")).make()


def test_a_damaged_file_is_named_or_nothing_is_lost(damaged: Damaged) -> None:
    home: SiteHome = damaged.federation.sites["va"]
    assert damaged.found.told == frozenset(), "the home is not whole before anything befalls it"
    cases = [(file, damage) for file in damaged.files() for damage in DAMAGES]
    assert len(cases) > 200, home
    if not EVERYTHING:
        cases = random.Random(6).sample(cases, SAMPLE)  # noqa: S311 - only which
        cases += [("ledger.sqlite", "an older copy"), ("node.json", "cut in half")]
    wrong = [f"{file}, {damage}: {problem}" for file, damage in cases for problem in _problems(damaged, file, damage)]
    assert not wrong, "\n".join(wrong)


def _problems(damaged: Damaged, file: str, damage: str) -> list[str]:
    try:
        said = damaged.say(file, damage)
    except NotThereError:
        return []
    found = list(said.unfit)
    if said.spent is not None and not said.spent >= damaged.spent:
        found.append(f"ε fell from {damaged.spent} to {said.spent}")
    if said.state != damaged.found.state and not said.told:
        found.append(f"the decision is {said.state}, and nobody says so")
    binds = file.startswith(BINDING) and (general(file), damage) not in MENDED
    if binds and not said.told:
        found.append("nobody says anything")
    return found
