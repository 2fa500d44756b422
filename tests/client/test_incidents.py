"""Evidence of a lie: kept durably, in bounds, told when damaged, and verifiable by anyone with the coordinator's key."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from fedward.client import incidents as module
from fedward.client.home import SiteHome
from fedward.client.incidents import Incident, Incidents, signed_by
from fedward.privacy.errors import InputError, IntegrityError, UnreachableError, UsageError
from fedward.privacy.signing import Identity
from fedward.study import messages
from fedward.study.files import write_new

STUDY = "ab" * 32
COORDINATOR = Identity.generate()


def request(number: int = 1, *, body: bytes = b"body", signer: Identity = COORDINATOR) -> bytes:
    """A coordinator's request as it comes from the network."""
    return messages.pack(messages.Offer(study=STUDY, nonce=f"{number:064x}", signature="c2ln"), body, signer)


def reference(number: int) -> str:
    return f"{number:012x}"


def told(folder: Path, number: int = 1, **changes: object) -> Incident:
    """A lie, recorded."""
    fields: dict[str, object] = {
        "reference": reference(number),
        "at": 1_900_000_000 + number,
        "code": "second-unmask",
        "what": "a second survivor set for one attempt",
        "study": STUDY,
        "stage": "unmask",
        "blamed": "coordinator",
        "evidence": request(number),
    }
    return Incidents(folder).record(**(fields | changes))  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "incidents"


def records(folder: Path) -> list[Path]:
    return sorted(folder.glob("0*.json"))


def bytes_kept(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.suffix != ".json")


# --- what is kept -------------------------------------------------------------------------------------------------------


def test_nothing_told_is_an_empty_list_and_makes_no_folder(folder: Path) -> None:
    incidents = Incidents(folder)
    assert (incidents.list(), incidents.not_recorded()) == ([], 0)
    assert not folder.exists()


def test_an_incident_is_kept_as_it_was_told_and_outlives_the_process(folder: Path) -> None:
    data = request()
    returned = told(folder, evidence=data)
    wanted = Incident(
        reference="000000000001",
        at=1_900_000_001,
        code="second-unmask",
        what="a second survivor set for one attempt",
        study=STUDY,
        stage="unmask",
        blamed="coordinator",
        evidence_sha256=sha256(data).hexdigest(),
        evidence_bytes=len(data),
        kept=True,
        times=1,
    )
    assert returned == wanted
    assert Incidents(folder).list() == [wanted]
    assert Incidents(folder).evidence("000000000001") == data


def test_an_incident_needs_only_a_code_and_a_text(folder: Path) -> None:
    made = Incidents(folder).record(reference=reference(1), at=0, code="replay", what="")
    assert (made.evidence_sha256, made.evidence_bytes, made.kept) == ("", 0, False)
    assert Incidents(folder).list() == [made]


def test_the_newest_is_last_whatever_the_clock_says(folder: Path) -> None:
    for number, at in ((7, 300), (3, 100), (5, 200)):
        told(folder, number, at=at)
    assert [incident.reference for incident in Incidents(folder).list()] == [reference(n) for n in (7, 3, 5)]


def test_the_home_names_the_folder(tmp_path: Path) -> None:
    assert SiteHome(tmp_path).incidents_folder == tmp_path / "incidents"


def test_only_the_owner_reads_what_is_kept(folder: Path) -> None:
    before = os.umask(0)
    try:
        told(folder)
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {path.name[-5:]: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {
        ".json": 0o600,
        ".fwd1": 0o600,
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"reference": "../etc/passwd"},
        {"reference": "ABCDEFABCDEF"},
        {"code": "Not a code"},
        {"study": "ab"},
        {"stage": "un/mask"},
        {"blamed": "St. Mary"},
        {"at": -1},
        {"at": 10**12},
        {"at": 1.5},
    ],
    ids=str,
)
def test_a_field_that_is_not_what_it_must_be_is_refused(folder: Path, changes: dict[str, object]) -> None:
    with pytest.raises(InputError, match=next(iter(changes))):
        told(folder, **changes)
    assert Incidents(folder).list() == []


def test_a_text_is_bounded_and_cannot_steer_a_terminal(folder: Path) -> None:
    told(folder, 1, what="x" * 1_000_000)
    told(folder, 2, what="a\x1b[2Jb\nc\ud800d – σ")
    first, second = Incidents(folder).list()
    assert first.what == "x" * 2_000
    assert second.what == "a�[2Jb�c�d – σ"


# --- evidence -----------------------------------------------------------------------------------------------------------


def test_evidence_is_verified_by_somebody_who_has_only_the_key(folder: Path) -> None:
    """By cryptography itself and the framing that `privacy/signing.py` describes; nothing of Fedward's checks."""
    told(folder)
    data = Incidents(folder).evidence(reference(1))
    assert data[:4] == b"FWD1"
    key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(COORDINATOR.public))
    key.verify(data[-64:], b"fedward/message\x00" + data[:-64])
    with pytest.raises(InvalidSignature):
        key.verify(data[-64:], b"fedward/message\x00" + data[:-65] + b"!")


def raw(data: bytes, signer: Identity = COORDINATOR) -> bytes:
    return data + signer.sign("message", data)


@pytest.mark.parametrize(
    ("data", "holds"),
    [
        (request(), True),
        (raw(b"FWD1\x00\x00\x00\x02{}"), True),  # signed, though no valid request: a lie of another kind
        (raw(b"no message at all"), True),
        (request(signer=Identity.generate()), False),
        (raw(b"FWD1\x00\x00\x00\x02{}", Identity.generate()), False),
        (request()[:-1], False),
        (request() + b"\x00", False),
        (b"", False),
        (b"x", False),
        (b"FWD1" + bytes(200), False),
        (b"\x00\x00" + COORDINATOR.sign("kit", b"\x00\x00"), False),
    ],
    ids=["request", "no header", "no message", "foreign", "foreign no header", "cut", "longer", "empty", "one byte",
         "zeros", "for another purpose"],
)  # fmt: skip
def test_what_the_coordinator_signed_is_told_from_what_it_did_not(data: bytes, holds: bool) -> None:
    assert signed_by(data, COORDINATOR.public) is holds


def test_an_unknown_reference_says_which_exist(folder: Path) -> None:
    with pytest.raises(InputError, match="there is none"):
        Incidents(folder).evidence(reference(1))
    for number in range(1, 13):
        told(folder, number)
    told(folder, 13, evidence=b"")
    with pytest.raises(InputError) as caught:
        Incidents(folder).evidence("ffffffffffff")
    newest = [reference(number) for number in range(12, 2, -1)]
    assert caught.value.expected == f"one of {', '.join(newest)} and 2 more"
    assert "no incident" in caught.value.what


@pytest.mark.parametrize("given", ["", "..", "../../keys/identity.pem", "*", "\x1b[2J"])
def test_a_reference_is_never_a_path(folder: Path, given: str) -> None:
    told(folder)
    with pytest.raises(InputError) as caught:
        Incidents(folder).evidence(given)
    assert caught.value.text().isprintable()


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [flip, Path.unlink, lambda path: path.write_bytes(b"")], ids=["flip", "gone", "cut"])
def test_damaged_evidence_is_not_given_out(folder: Path, damage: Callable[[Path], object]) -> None:
    told(folder)
    (path,) = folder.glob("*.fwd1")
    damage(path)
    with pytest.raises(IntegrityError, match="is damaged") as caught:
        Incidents(folder).evidence(reference(1))
    assert caught.value.code == "damaged-evidence"
    told(folder, 2, evidence=request(1))  # it comes again: whole now
    assert Incidents(folder).evidence(reference(1)) == request(1)


# --- bounds -------------------------------------------------------------------------------------------------------------


def test_the_same_evidence_is_counted_not_stored_again(folder: Path) -> None:
    first = told(folder, 1)
    second = told(folder, 2, evidence=request(1), what="said otherwise")
    assert second == replace(first, times=2)
    assert told(folder, 3, evidence=request(1)).times == 3
    assert Incidents(folder).list() == [replace(first, times=3)]
    assert len(list(folder.iterdir())) == 2


def test_the_same_evidence_of_another_lie_is_another_incident_with_the_same_bytes(folder: Path) -> None:
    told(folder, 1)
    assert told(folder, 2, evidence=request(1), code="replay").times == 1
    assert len(records(folder)) == 2
    assert bytes_kept(folder) == len(request(1))
    assert Incidents(folder).evidence(reference(2)) == request(1)


def test_incidents_without_evidence_are_not_taken_for_the_same(folder: Path) -> None:
    told(folder, 1, evidence=b"")
    told(folder, 2, evidence=b"")
    assert [incident.times for incident in Incidents(folder).list()] == [1, 1]


@pytest.mark.parametrize(("over", "kept"), [(0, True), (1, False)])
def test_evidence_over_its_bound_is_named_not_kept(
    folder: Path, over: int, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = request()
    monkeypatch.setattr(module, "MAX_ONE_EVIDENCE_BYTES", len(data) - over)
    told(folder, evidence=data)
    (incident,) = Incidents(folder).list()
    assert (incident.evidence_sha256, incident.evidence_bytes) == (sha256(data).hexdigest(), len(data))
    assert incident.kept is kept
    assert bytes_kept(folder) == (len(data) if kept else 0)
    if not kept:
        with pytest.raises(InputError, match="was not kept") as caught:
            Incidents(folder).evidence(reference(1))
        assert sha256(data).hexdigest() in caught.value.text()
    assert told(folder, 2, evidence=data).times == 2  # counted, kept or not


def test_all_evidence_together_is_bounded_and_what_still_fits_is_kept(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = len(request())
    monkeypatch.setattr(module, "MAX_EVIDENCE_BYTES", 3 * size)
    told(folder, 1)
    told(folder, 2, evidence=request(2, body=b"longer" * 10))
    told(folder, 3, evidence=request(3, body=b"longer" * size))
    told(folder, 4, evidence=request(1), code="replay")  # here already
    told(folder, 5, evidence=b"tiny")
    assert [incident.kept for incident in Incidents(folder).list()] == [True, True, False, True, True]
    assert bytes_kept(folder) <= 3 * size


def test_the_bounds_are_those_that_were_promised() -> None:
    assert (module.MAX_INCIDENTS, module.MAX_EVIDENCE_BYTES, module.MAX_ONE_EVIDENCE_BYTES) == (1000, 2**26, 2**24)


def test_past_its_bound_the_folder_only_counts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_INCIDENTS", 3)
    for number in range(1, 4):
        told(folder, number)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for number in range(4, 9):
        made = told(folder, number)
        assert (made.reference, made.kept, made.times) == (reference(number), False, 0)
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {"not-recorded.json"}
    assert Incidents(folder).not_recorded() == 5
    assert told(folder, 9, evidence=request(2)).times == 2  # on record: counted there
    assert (len(Incidents(folder).list()), Incidents(folder).not_recorded()) == (3, 5)


def test_a_folder_that_was_moved_begins_anew(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_INCIDENTS", 1)
    incidents = Incidents(folder)
    told(folder, 1)
    told(folder, 2)
    folder.rename(folder.with_name("old"))
    assert (incidents.list(), incidents.not_recorded()) == ([], 0)
    assert told(folder, 3).times == 1
    assert [incident.reference for incident in Incidents(folder.with_name("old")).list()] == [reference(1)]


# --- damage -------------------------------------------------------------------------------------------------------------


def another_text(path: Path) -> None:
    """Still a well-formed record, but not the one that was written."""
    data = json.loads(path.read_text())
    data["incident"]["blamed"] = "hungarian"
    path.write_text(json.dumps(data, sort_keys=True, separators=(",", ":")))


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def a_dangling_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


DAMAGES: dict[str, Callable[[Path], object]] = {
    "flip": flip,
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-20]),
    "not utf-8": lambda path: path.write_bytes(b"\xff\xfe"),
    "huge": lambda path: path.write_bytes(b" " * 2_000_000),
    "deep": lambda path: path.write_bytes(b"[" * 100_000),
    "a number without end": lambda path: path.write_bytes(b'{"format":' + b"9" * 100_000 + b"}"),
    "nan": lambda path: path.write_text(path.read_text().replace('"format":1', '"format":NaN')),
    "another text": another_text,
    "spaces": lambda path: path.write_text(path.read_text() + "\n"),
    "folder": a_folder,
    "dangling link": a_dangling_link,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_record_is_told_and_the_others_stand(folder: Path, damage: Callable[[Path], object]) -> None:
    for number in (1, 2, 3):
        told(folder, number)
    damage(records(folder)[1])
    first, second, third = Incidents(folder).list()
    assert [first.reference, third.reference] == [reference(1), reference(3)]
    assert (second.code, second.reference, second.kept) == ("damaged-record", reference(2), False)
    assert records(folder)[1].name in second.what
    assert second.at > 1_500_000_000
    assert told(folder, 4).kept  # and the next is recorded after them
    assert [incident.reference for incident in Incidents(folder).list()] == [reference(n) for n in (1, 2, 3, 4)]
    with pytest.raises(InputError, match="was not kept"):
        Incidents(folder).evidence(reference(2))


def test_a_damaged_record_takes_its_place_in_the_bound(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_INCIDENTS", 2)
    told(folder, 1)
    told(folder, 2)
    flip(records(folder)[0])
    assert told(folder, 3).times == 0


@pytest.mark.parametrize("name", ["foreign.json", "000009-xyz.json", "\udcff.json", "\x1b[2J.json"])
def test_a_foreign_file_is_told(folder: Path, name: str) -> None:
    told(folder, 1)
    (folder / name).write_text("{}")
    (strange,) = (incident for incident in Incidents(folder).list() if incident.code == "damaged-record")
    assert strange.what.isprintable()
    assert strange.reference == ""
    assert told(folder, 2).kept


@pytest.mark.parametrize("text", ["", "[]", '{"count":-1}', '{"count":"1"}', '{"count":1,"x":2}', "\xff"])
def test_a_damaged_counter_is_told_and_counting_goes_on(
    folder: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_INCIDENTS", 1)
    told(folder, 1)
    told(folder, 2)
    (folder / "not-recorded.json").write_text(text)
    for more in (0, 1, 2):
        assert [incident.code for incident in Incidents(folder).list()] == ["second-unmask", "damaged-record"]
        assert Incidents(folder).not_recorded() == more
        told(folder, 3)


# --- durability ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is asked of the file system, in its order."""
    made: list[str] = []
    fsync, move, mkdir = os.fsync, Path.replace, Path.mkdir

    def kind(path: str) -> str:
        name = Path(path).name
        return (
            "evidence" if ".fwd1" in name else "counter" if "not-rec" in name else "record" if ".json" in name else name
        )

    def synced(handle: int) -> None:
        made.append("sync " + kind(str(Path(f"/proc/self/fd/{handle}").readlink())))
        fsync(handle)

    def moved(self: Path, target: Path) -> Path:
        made.append("name " + kind(str(target)))
        return move(self, target)

    def made_folder(self: Path, *arguments: object, **named: object) -> None:
        made.extend([] if self.exists() else ["make " + self.name])
        mkdir(self, *arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", moved)
    monkeypatch.setattr(Path, "mkdir", made_folder)
    return made


def test_evidence_is_durable_before_the_record_that_names_it(tmp_path: Path, steps: list[str]) -> None:
    folder = tmp_path / "incidents"
    told(folder)
    evidence = ["sync evidence", "name evidence", "sync incidents"]
    record = ["sync record", "name record", "sync incidents"]
    assert steps == ["make incidents", f"sync {tmp_path.name}", *evidence, *record]
    steps.clear()
    told(folder)
    assert steps == [f"sync {tmp_path.name}", *record]  # counted, durably too


def test_the_counter_is_durable(tmp_path: Path, steps: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_INCIDENTS", 0)
    told(tmp_path / "incidents")
    assert steps[2:] == ["sync counter", "name counter", "sync incidents"]


STEPS = ((os, "fsync"), (os, "fchmod"), (Path, "replace"), (Path, "mkdir"), (Path, "chmod"), (Path, "unlink"))


def lie(folder: Path, number: int) -> Incident:
    return told(folder, number, evidence=b"lie" * number)


def dies(folder: Path, step: int) -> bool:
    """Whether a process that records four lies died at that step, as by SIGKILL: nothing of it cleans up."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    try:
        left = iter(range(step - 1))
        for owner, name in STEPS:
            setattr(owner, name, _dying(getattr(owner, name), left))
        module.MAX_INCIDENTS = 2
        for number in (1, 2, 1, 3):
            lie(folder, number)
        os._exit(0)
    finally:
        os._exit(1)


def _dying(real: Callable[..., object], left: Iterator[int]) -> Callable[..., object]:
    def step(*arguments: object, **named: object) -> object:
        if next(left, None) is None:
            os._exit(9)
        return real(*arguments, **named)

    return step


def test_a_crash_at_any_step_leaves_a_readable_folder(tmp_path: Path) -> None:
    """The process ends at its first, second, … step; what is there reads well, and the next process goes on."""
    step, halves = 1, 0
    while dies(tmp_path / str(step), step):
        folder = tmp_path / str(step)
        halves += bool(list(folder.glob(".*")))
        incidents = Incidents(folder)
        listed = incidents.list()
        assert [incident.code for incident in listed] == ["second-unmask"] * len(listed)
        for number, incident in enumerate(listed, 1):
            assert incidents.evidence(incident.reference) == b"lie" * number
        lie(folder, 1), lie(folder, 2)
        assert [incident.reference for incident in incidents.list()] == [reference(1), reference(2)]
        assert not list(folder.glob(".*"))
        step += 1
    assert (step > 30, halves > 5) == (True, True)
    assert Incidents(tmp_path / str(step)).not_recorded() == 1


# --- a disk that fails --------------------------------------------------------------------------------------------------

FULL_DISK = """
import resource, sys
from pathlib import Path
from fedward.client.incidents import Incidents
from fedward.privacy.errors import UnreachableError
from fedward.study.files import write_new

def attempt(size):
    Incidents(Path(sys.argv[1])).record(reference="0" * 12, at=1, code="replay", what="", evidence=b"e" * size)

resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
for act in (lambda: attempt(5000), lambda: write_new(Path(sys.argv[2]), b"e" * 5000)):
    try:
        act()
    except UnreachableError as error:
        print(error.text())
    else:
        sys.exit("it was written")
attempt(1000)
"""


def test_a_full_disk_is_told_and_nothing_half_stays(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = subprocess.run([sys.executable, "-c", FULL_DISK, folder, out], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("free disk space") == 2
    assert not out.exists()
    (incident,) = Incidents(folder).list()
    assert Incidents(folder).evidence(incident.reference) == b"e" * 1000
    assert len(list(folder.iterdir())) == 2


@pytest.mark.parametrize("name", ["mkdir", "iterdir", "replace", "chmod"])
def test_whatever_the_system_refuses_is_an_error_of_ours(
    folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*_arguments: object, **_named: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, name, refuses)
    with pytest.raises(UnreachableError, match="free disk space"):
        told(folder)


def test_a_folder_that_cannot_be_read_is_not_an_empty_list(folder: Path) -> None:
    folder.write_text("no folder")
    with pytest.raises(UnreachableError, match="Not a directory"):
        Incidents(folder).list()
    with pytest.raises(UnreachableError):
        told(folder)


def test_taken_out_evidence_never_overwrites(tmp_path: Path) -> None:
    path = tmp_path / "out"
    write_new(path, b"evidence")
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"evidence", 0o600)
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "elsewhere")
    for taken in (path, link, tmp_path):
        with pytest.raises(UsageError, match="exists already"):
            write_new(taken, b"other")
    assert path.read_bytes() == b"evidence"
    assert not (tmp_path / "elsewhere").exists()
    with pytest.raises(UnreachableError, match="No such file"):
        write_new(tmp_path / "none" / "out", b"evidence")
