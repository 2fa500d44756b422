"""Everything that a person does at a hospital's command line and that writes: from which home, and what holds after.

`STEPS` and `READS` together name every command of `fedward site`; a test fails for one that is in neither.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from command import Ran, fedward, good
from federation import NOW, Federation, heart_manifest
from hospital import SITE
from loopback import write_study
from mortal import Blow, Places, in_child, kill
from nodefaults import check_home
from smalldisk import SmallDisk

from fedward.cli.main import _code
from fedward.client.enrolment import make_request
from fedward.client.home import SiteHome
from fedward.client.incidents import Incidents
from fedward.privacy.checkpoint import Checkpoint
from fedward.privacy.errors import FedwardError
from fedward.server.coordinator import LocalCoordinator
from fedward.study.heart import heart_folder

UNNAMED = frozenset({"internal-error", "system", "error"})
"""What a command says of something that nobody foresaw."""


@dataclass(frozen=True)
class Step:
    """A command. In its words {home}, {folder}, {kit}, {study}, {digest}, {data} stand for a case's own paths and names."""

    words: tuple[str, ...]
    start: str
    """Which of `Homes` it starts from."""
    done: frozenset[str] = frozenset()
    """The codes with which it may answer when it is given again although it had come to its end."""

    @property
    def name(self) -> str:
        return " ".join(word for word in self.words if not word.startswith("{"))


STEPS = (
    Step(("init", "va", "--home", "{home}"), "new", frozenset({"usage"})),
    Step(("request", "--home", "{home}", "--out", "{home}/va.request.json"), "made"),
    Step(("enroll", "{kit}", "--home", "{home}"), "made"),
    Step(("register", "--study", "{study}", "--csv", "{data}.csv", "--mapping", "{data}.mapping.toml", "--home", "{home}"),
         "joined"),
    Step(("approver", "add", "Ada", "--unencrypted", "--home", "{home}"), "made", frozenset({"usage"})),
    Step(("approver", "add", "Ada", "--unencrypted", "--home", "{home}"), "approved", frozenset({"usage"})),
    Step(("approver", "remove", "Ada", "--as", "tester", "--home", "{home}"), "two", frozenset({"usage"})),
    Step(("approve", "{digest}", "--home", "{home}"), "proposed"),
    Step(("refuse", "{digest}", "--home", "{home}"), "proposed"),
    Step(("revoke", "{digest}", "--home", "{home}"), "approved", frozenset({"usage"})),
    Step(("exclude", "add", "--id", "p7", "--home", "{home}"), "approved"),
    Step(("exclude", "remove", "--id", "p9", "--home", "{home}"), "ran"),
    Step(("backup", "{home}/va.backup", "--home", "{home}"), "ran", frozenset({"usage"})),
    Step(("restore", "{backup}", "--by", "Ada", "--reason", "lost", "--keys", "{keys}", "--none-approved", "--home", "{home}"),
         "new"),
    Step(("rotate", "--out", "{home}/va.rotation.json", "--home", "{home}"), "approved"),
    Step(("pause", "--reason", "maintenance", "--home", "{home}"), "approved", frozenset({"usage"})),
    Step(("resume", "--home", "{home}"), "paused", frozenset({"usage"})),
    Step(("withdraw", "--all", "--out", "{home}/certificates", "--home", "{home}"), "ran",
         frozenset({"usage", "bad-input"})),
    Step(("support", "{home}/support.zip", "--home", "{home}"), "ran", frozenset({"usage"})),
    Step(("passphrase", "--key-file", "{folder}/other.key", "--home", "{home}"), "joined"),
    Step(("ledger", "--export", "{home}/va.ledger", "--home", "{home}"), "ran"),
    Step(("ledger-recover", "--by", "Ada", "--reason", "lost", "--write-off", "--home", "{home}"), "behind"),
    Step(("metrics", "{digest}", "--release", "{home}/released.json", "--home", "{home}"), "sharing", frozenset({"usage"})),
    Step(("incidents", "--evidence", "{reference}", "--out", "{home}/evidence.fwd1", "--home", "{home}"), "ran",
         frozenset({"usage"})),
)  # fmt: skip
READS = (
    "review",
    "data",
    "status",
    "log",
    "doctor",
    "start",
    "approver list",
    "exclude list",
    "service",
    "policy check",
)
"""What writes nothing that must last. `start` is the node itself, see `test_node_faults`."""
LEFT_OUT = ("approver start-over", "approver require", "migrate")
"""One link of the chain, as `approver add` makes it too; and what has tests of its own, `tests/client/test_migrations.py`."""
GROUPS = frozenset({"approver", "exclude", "policy"})


@dataclass
class Homes:
    """A hospital's home at every stage of its life, as folders to copy; and what lies outside of it."""

    folder: Path
    words: dict[str, str] = field(default_factory=dict)

    def make(self) -> Homes:
        self.folder.mkdir(parents=True)
        federation = Federation(self.folder / "federation", sites=("cleveland", "hungarian", SITE))
        study = write_study(self.folder / "study.toml", "heart-4-hospitals")
        made = self.folder / "made"
        (self.folder / "new").mkdir()
        good("site", "init", SITE, "--home", made)
        coordinator = LocalCoordinator(federation.home.path)
        # Another federation's site of the same name: only its kit is wanted.
        kit = self._kit(coordinator, SiteHome.open(made))
        coordinator.close()
        self._keep("joined", made)
        good("site", "enroll", kit, "--home", self.folder / "joined")
        self._of_a_study(federation)
        self.words |= {"kit": str(kit), "study": str(study), "data": str(heart_folder() / SITE)}
        return self

    def _kit(self, coordinator: LocalCoordinator, home: SiteHome) -> Path:
        other = Federation(self.folder / "other", sites=())
        del coordinator
        local = LocalCoordinator(other.home.path)
        file = self.folder / "va.kit.json"
        file.write_text(_of(local.enroll(make_request(home))).model_dump_json(indent=1))
        local.close()
        other.store.close()
        return file

    def _of_a_study(self, federation: Federation) -> None:
        manifest = heart_manifest(secure=True, noised=True, training={"rounds": 1}, evaluation={"every": 1})
        federation.register(manifest)
        home = federation.sites[SITE]
        sealed = federation.propose(manifest)
        self.words["digest"] = sealed.digest
        self._keep("proposed", home.path)
        federation.approve(sealed)
        self._keep("approved", home.path)
        good("site", "pause", "--home", self._keep("paused", home.path))
        good("site", "approver", "add", "Ada", "--unencrypted", "--home", self._keep("two", home.path))
        federation.run()
        self.words["reference"] = "0123456789ab"
        Incidents(home.incidents_folder).record(
            reference=self.words["reference"], at=int(NOW.timestamp()), code="malformed", what="a lie",
            study=sealed.digest, evidence=b"FWD1 evidence",
        )  # fmt: skip
        sharing = self._keep("sharing", home.path) / "policy.toml"
        sharing.write_text(sharing.read_text().replace("share_metrics = false", "share_metrics = true"))
        good("site", "exclude", "add", "--id", "p9", "--home", home.path)
        self._keep("ran", home.path)
        self.words["keys"] = str(self.folder / "ran" / "keys")
        self.words["backup"] = str(self.folder / "va.backup")
        good("site", "backup", self.words["backup"], "--home", home.path)
        behind = self._keep("behind", home.path)
        for name in ("ledger.sqlite", "ledger.sqlite-wal", "ledger.sqlite-shm"):
            (behind / name).unlink(missing_ok=True)
            if (self.folder / "approved" / name).exists():
                shutil.copy2(self.folder / "approved" / name, behind / name)

    def _keep(self, name: str, home: Path) -> Path:
        return Path(shutil.copytree(home, self.folder / name))


def _of(enrolled: Any) -> Any:
    """The kit of an enrolment, with or without what else it tells."""
    return getattr(enrolled, "kit", enrolled)


@dataclass
class Run:
    """A step on a copy of its home."""

    homes: Homes
    step: Step
    folder: Path

    def __post_init__(self) -> None:
        self.home = Path(shutil.copytree(self.homes.folder / self.step.start, self.folder / "home"))
        known = {"home": str(self.home), "folder": str(self.folder)} | self.homes.words
        self.argv = [word.format_map(known) for word in ("site", *self.step.words, "--json")]
        self.before: Checkpoint | None = None
        if (self.home / "site.json").exists():
            self.before = SiteHome.open(self.home).audit.checkpoint()

    def watched(self, at: int | None, blow: Blow, *, only_before: bool) -> tuple[int, list[str], str]:
        return in_child(lambda: _code(self.argv), Places(self.folder, at, blow, only_before=only_before))

    def again(self) -> Ran:
        """The person gives the command once more, the next day; and does what it tells them of a ledger's creation that was cut."""
        ran = fedward(*self.argv)
        draft = self.home / "ledger.sqlite.new"
        if ran.code == 3 and "delete that file" in ran.out and draft.exists():
            draft.unlink()
            ran = fedward(*self.argv)
        return ran

    def examined(self) -> None:
        """Doctor speaks of what was cut off, and foresaw it."""
        looked = fedward("site", "doctor", "--home", self.home, "--json")
        assert looked.code in {0, 1, 3}, looked
        assert "internal-error" not in looked.out, looked.out

    def mended(self, wanted: dict[str, Any]) -> None:
        """Given again, it comes to what it comes to undisturbed."""
        ran = self.again()
        assert ran.code == 0 or ran.json["error"] in self.step.done, ran
        self.check(wanted)

    def facts(self) -> dict[str, Any]:
        """What is decided, registered and spent here; what only says when is left out."""
        status = good("site", "status", "--home", self.home)
        kept = {name: status.get(name) for name in ("site", "federation", "studies")}
        data = [{key: one[key] for key in ("study_id", "patients", "cohort")} for one in status["datasets"]]
        money = {key: status["ledger"][key] for key in ("spent", "committed", "budget", "delta")}
        return json.loads(json.dumps({**kept, "datasets": data, "ledger": money}))

    def check(self, wanted: dict[str, Any]) -> None:
        found = self.facts()
        assert found == wanted
        home = SiteHome.open(self.home)
        check_home(home, self.before)


def names_of(homes: Homes, step: Step, folder: Path, *, only_before: bool) -> tuple[list[str], dict[str, Any]]:
    """The places of a step that nothing befalls, and the facts that it leaves."""
    run = Run(homes, step, folder)
    code, names, said = run.watched(None, kill, only_before=only_before)
    assert code == 0, said
    return names, run.facts()


def befall(
    homes: Homes,
    step: Step,
    folder: Path,
    blow: Blow,
    chosen: Callable[[list[str]], Iterable[int]],
    *,
    only_before: bool = False,
) -> int:
    """Let it happen at each chosen place of a step, on a fresh copy; then the command again. How many places there are."""
    folder.mkdir(parents=True)
    names, wanted = names_of(homes, step, folder / "dry", only_before=only_before)
    for at in chosen(names):
        run = Run(homes, step, folder / str(at))
        try:
            code, _, said = run.watched(at, blow, only_before=only_before)
            if blow is kill:
                assert code == -9, f"nothing was killed: {said}"
            else:
                assert_told(code, said)
            run.examined()
            run.mended(wanted)
        except BaseException as error:
            error.add_note(f"{step.name}: at place {at} of {len(names)}: {names[at]}")
            raise
        shutil.rmtree(run.folder)
    return len(names)


def run_full(homes: Homes, step: Step, folder: Path) -> int:
    """At each place of a step, on a file system of its own, that file system is really full from there on.

    The command then ends, or says what it is; doctor still speaks; somebody frees space, and the command is given again. How many
    places there are.
    """
    folder.mkdir(parents=True)
    names, wanted = names_of(homes, step, folder / "dry", only_before=True)
    for at, name in enumerate(names):
        with SmallDisk(folder / str(at)) as disk:
            try:
                run = Run(homes, step, disk.folder)
                code, _, said = run.watched(at, disk.fill, only_before=True)
                assert disk.is_full, "nothing was filled"
                assert_told(code, said)
                run.examined()
                disk.free()
                run.mended(wanted)
            except BaseException as error:
                error.add_note(f"{step.name}: at place {at} of {len(names)}: {name}")
                raise
    return len(names)


def assert_told(code: int, said: str) -> None:
    """A command that could not write says what it is and what to do, in one JSON object; or it came to its end all the same."""
    if code == 0:
        return
    assert code == 6, (code, said)
    error = json.loads(said.strip().splitlines()[-1])
    assert error["error"] not in UNNAMED, error
    assert error["remedy"], error


def unnamed(error: FedwardError) -> bool:
    return error.code in UNNAMED
