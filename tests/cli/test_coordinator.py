"""`fedward coordinator …`: what a coordinator sees, above all when something is wrong."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from command import Ran, fedward, good
from federation import Federation
from loopback import Loopback, free_ports, wait_for, write_study

from fedward.client.enrolment import make_request
from fedward.client.home import SiteHome
from fedward.privacy.ledger import Budget
from fedward.server.home import CoordinatorHome, ServiceFile
from fedward.study.enrolment import sign
from fedward.study.files import write_atomic
from fedward.study.heart import SITES


def fails(code: int, error: str, *arguments: object) -> Ran:
    """A command that must fail, first for a person, then for a script."""
    told = fedward(*arguments)
    assert told.code == code, told
    assert told.out == "", told
    assert "error: " in told.err
    assert "Traceback" not in told.err
    asked = fedward(*arguments, "--json")
    assert asked.code == code
    assert asked.json["error"] == error, asked.json
    return told


@contextmanager
def signals_kept() -> Iterator[None]:
    """`start` takes SIGINT and SIGTERM for itself; a test gives them back."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    port, control = free_ports(2)
    good("coordinator", "init", "A", "--port", port, "--control-port", control, "--home", tmp_path / "coordinator")
    return tmp_path / "coordinator"


def request(folder: Path, name: str) -> Path:
    good("site", "init", name, "--home", folder / name)
    return Path(good("site", "request", "--home", folder / name)["request"])


# --- making and enrolling -----------------------------------------------------------------------------------------


def test_init_twice_keeps_the_first_federation(home: Path) -> None:
    before = {p.name: p.read_bytes() for p in sorted(home.rglob("*")) if p.is_file()}
    fails(2, "usage", "coordinator", "init", "B", "--home", home)
    assert {p.name: p.read_bytes() for p in sorted(home.rglob("*")) if p.is_file()} == before


def test_init_says_what_to_do_next(tmp_path: Path) -> None:
    ran = fedward("coordinator", "init", "A", "--host", "fed.example.org", "--home", tmp_path)
    assert ran.code == 0
    assert "fed.example.org:9443" in ran.out
    assert "fedward coordinator start" in ran.out


@pytest.mark.parametrize("options", [["--host", "a b"], ["--host", ""], ["--bind", "http://x"]], ids=str)
def test_init_with_an_impossible_address_makes_nothing(tmp_path: Path, options: list[str]) -> None:
    ran = fedward("coordinator", "init", "A", *options, "--home", tmp_path)
    assert ran.code == 3, ran
    assert "Traceback" not in ran.err
    assert not (tmp_path / "federation.json").exists()


def test_no_home(tmp_path: Path) -> None:
    for command in (("status",), ("sites",), ("launch", "a"), ("stop", "a")):
        assert "coordinator init" in fails(3, "bad-input", "coordinator", *command, "--home", tmp_path / "none").err
    assert not (tmp_path / "none").exists()


def test_enroll_compares_the_fingerprint(home: Path, tmp_path: Path) -> None:
    file = request(tmp_path, "a")
    wrong = "-".join(["0000"] * 8)
    told = fails(5, "integrity", "coordinator", "enroll", file, "--fingerprint", wrong, "--home", home)
    assert wrong in told.err
    assert good("coordinator", "sites", "--home", home) == {"sites": []}
    assert not file.with_name("a.kit.json").exists()
    seen = good("site", "request", "--home", tmp_path / "a")["fingerprint"]
    done = good("coordinator", "enroll", file, "--fingerprint", seen.upper(), "--home", home)
    listed = good("coordinator", "sites", "--home", home)["sites"]
    assert [(row["site"], row["fingerprint"], row["state"]) for row in listed] == [
        ("a", done["fingerprint"], "enrolled")
    ]
    assert seen in fedward("coordinator", "sites", "--home", home).out


@pytest.mark.parametrize("field", ["site", "identity_key", "node_key", "certificate_request"])
def test_tampered_request_is_refused(home: Path, tmp_path: Path, field: str) -> None:
    file, other = request(tmp_path, "a"), request(tmp_path, "b")
    data, evil = json.loads(file.read_text()), json.loads(other.read_text())
    file.write_text(json.dumps(data | {field: evil[field]}))
    fails(5, "bad-signature", "coordinator", "enroll", file, "--home", home)
    assert good("coordinator", "sites", "--home", home) == {"sites": []}


@pytest.mark.parametrize("text", ["", "{}", "[]", "{", "null", "[" * 100_000, '{"format": 1e999}'])
def test_request_that_is_none_is_refused(home: Path, tmp_path: Path, text: str) -> None:
    file = tmp_path / "request.json"
    file.write_text(text)
    fails(3, "bad-input", "coordinator", "enroll", file, "--home", home)


def test_request_with_a_node_key_that_the_service_cannot_use_is_refused(home: Path, tmp_path: Path) -> None:
    """Well signed, and it would trouble the service at every beat."""
    site = SiteHome.create(tmp_path / "a", "a", Budget(1.0, 1e-3))
    spoilt = make_request(site).model_copy(update={"node_key": "no key, but twenty letters"})
    file = tmp_path / "request.json"
    file.write_text(sign(spoilt, site.identity()).model_dump_json())
    fails(5, "integrity", "coordinator", "enroll", file, "--home", home)
    assert good("coordinator", "sites", "--home", home) == {"sites": []}


def test_a_name_is_enrolled_once(home: Path, tmp_path: Path) -> None:
    file = request(tmp_path, "a")
    first = good("coordinator", "enroll", file, "--home", home)
    assert good("coordinator", "enroll", file, "--home", home) == first | {
        "what": "renewed"  # the kit got lost: another, for the same keys
    }
    good("site", "init", "a", "--home", tmp_path / "impostor")
    impostor = good("site", "request", "--home", tmp_path / "impostor")["request"]
    fails(2, "usage", "coordinator", "enroll", impostor, "--home", home)


def test_key_that_others_may_read_is_refused(home: Path, tmp_path: Path) -> None:
    file = request(tmp_path, "a")
    for key in ("ca.pem", "coordinator.pem"):
        (home / "keys" / key).chmod(0o644)
        told = fails(5, "integrity", "coordinator", "enroll", file, "--home", home)
        assert "chmod 600" in told.err
        (home / "keys" / key).chmod(0o600)


@pytest.mark.timeout(30)
@pytest.mark.parametrize("key", ["server.pem", "coordinator.pem", "ca.pem"])
def test_service_does_not_start_with_a_key_that_others_may_read(home: Path, key: str) -> None:
    (home / "keys" / key).chmod(0o640)
    with signals_kept():
        ran = fedward("coordinator", "start", "--home", home)
    assert ran.code == 5, ran
    assert "0600" in ran.err


# --- studies ------------------------------------------------------------------------------------------------------


@contextmanager
def pretended_service(home: CoordinatorHome) -> Iterator[None]:
    """The service's lock and file, without the service: proposing only writes what it wishes."""
    with home.serving():
        write_atomic(home.service_file, ServiceFile(pid=os.getpid(), started_at=0).model_dump_json().encode())
        yield
        home.service_file.unlink()


@pytest.mark.parametrize(
    ("table", "values", "words"),
    [
        ("training", {"roudns": 3}, "training.roudns"),
        ("model", {"name": "gpt-7"}, "gpt-7"),
        ("privacy", {"epsilon": 0.0}, "privacy.epsilon"),
        ("privacy", {"epsilon": float("nan")}, "privacy.epsilon is not a finite number"),
        ("privacy", {"epsilon": float("inf")}, "privacy.epsilon is not a finite number"),
        ("privacy", {"delta": 1.0}, "privacy.delta"),
        ("privacy", {"clipping_norm": -1.0}, "privacy.clipping_norm"),
        ("privacy", {"colluders": 0}, "privacy.colluders"),
        ("training", {"rounds": -1}, "training.rounds"),
        ("training", {"rounds": "many"}, "training.rounds"),
        ("federation", {"deadline": "soon"}, "federation.deadline"),
        ("study", {"title": 3}, "study.title"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_bad_manifest_is_refused(
    fed: Federation, tmp_path: Path, table: str, values: dict[str, object], words: str
) -> None:
    study = write_study(tmp_path / "study.toml", "bad", {table: values})
    before = good("coordinator", "status", "--home", fed.home.path)["studies"]
    with pretended_service(fed.home):
        told = fails(3, "bad-input", "coordinator", "propose", study, "--home", fed.home.path)
    assert words in told.err, told.err
    assert good("coordinator", "status", "--home", fed.home.path)["studies"] == before


def test_manifest_with_turned_bounds_or_no_toml_is_refused(fed: Federation, tmp_path: Path) -> None:
    study = write_study(tmp_path / "study.toml", "bad")
    text = study.read_text()
    study.write_text(text.replace("60,\n", "600,\n", 1))
    assert "bounds" in fails(3, "bad-input", "coordinator", "propose", study, "--home", fed.home.path).err
    for broken in ("[study", text[: len(text) // 2], "\0", ""):
        study.write_text(broken)
        fails(3, "bad-input", "coordinator", "propose", study, "--home", fed.home.path)
    fails(3, "bad-input", "coordinator", "propose", tmp_path / "none.toml", "--home", fed.home.path)


def test_propose_asks_for_enrolled_sites_and_a_quorum(fed: Federation, tmp_path: Path) -> None:
    study = write_study(tmp_path / "study.toml", "wanted")
    with pretended_service(fed.home):
        told = fails(3, "bad-input", "coordinator", "propose", study, "--sites", "va,mayo", "--home", fed.home.path)
        assert "mayo" in told.err
        fails(2, "usage", "coordinator", "propose", study, "--sites", "va, cleveland", "--home", fed.home.path)


def test_commands_that_need_the_service_say_so(fed: Federation, tmp_path: Path) -> None:
    study = write_study(tmp_path / "study.toml", "wanted")
    told = fails(6, "unreachable", "coordinator", "propose", study, "--home", fed.home.path)
    assert "fedward coordinator start" in told.err
    fails(6, "unreachable", "coordinator", "launch", fed.sealed().digest, "--home", fed.home.path)
    assert "The service is stopped" in fedward("coordinator", "status", "--home", fed.home.path).out


def test_service_file_of_a_dead_service_is_not_believed(fed: Federation) -> None:
    """kill -9, or a reboot, after which another program has the process number."""
    write_atomic(fed.home.service_file, ServiceFile(pid=os.getppid(), started_at=0).model_dump_json().encode())
    assert good("coordinator", "status", "--home", fed.home.path)["serving"] is False
    with fed.home.serving():  # nor by commands while the next one starts
        assert fed.home.service() is None
        write_atomic(fed.home.service_file, ServiceFile(pid=os.getpid(), started_at=0).model_dump_json().encode())
        assert fed.home.service() is not None


def test_unknown_and_ended_studies(fed: Federation) -> None:
    home, digest = fed.home.path, fed.sealed().digest
    for command in ("status", "launch", "stop"):
        fails(3, "bad-input", "coordinator", command, "nope", "--home", home)
        fails(3, "bad-input", "coordinator", command, digest[:3], "--home", home)
    stopped = good("coordinator", "stop", digest[:8], "--home", home)
    assert stopped["state"] == "stopped"
    fails(4, "not-under-way", "coordinator", "stop", digest[:8], "--home", home)


def test_status_of_a_study(fed: Federation) -> None:
    fed.approve(fed.sealed())
    fed.run()
    view = good("coordinator", "status", "heart-4-hospitals", "--home", fed.home.path)
    assert view["state"] == "completed"
    assert view["contributions"] == dict.fromkeys(SITES, view["rounds"])
    shown = fedward("coordinator", "status", view["digest"][:8], "--home", fed.home.path).out
    for words in ("completed", "AUROC on held-out patients", "ε at most 3", "switzerland"):
        assert words in shown
    followed = fedward("coordinator", "status", "heart-4-hospitals", "--follow", "--home", fed.home.path)
    assert followed.code == 0
    assert "committed" in followed.err
    fails(4, "not-to-launch", "coordinator", "launch", "heart-4-hospitals", "--home", fed.home.path)


def test_a_study_whose_sites_are_no_more_who_they_were_is_not_launched(fed: Federation) -> None:
    """A site fewer than were sealed still runs; too few do not, whether revoked or with a new identity."""
    home, digest = ("--home", fed.home.path), fed.sealed().digest
    least = fed.sealed().manifest.least_sites
    spare = len(SITES) - least
    with pretended_service(fed.home):
        for site in SITES[:spare]:
            good("coordinator", "revoke", site, *home)
        assert good("coordinator", "launch", digest[:8], *home)["state"] == "proposed"
        asked = good("site", "rotate", "--identity", "--end-studies", "--home", fed.sites[SITES[spare]].path)
        good("coordinator", "enroll", asked["request"], "--fingerprint", asked["fingerprint"], "--end-studies", *home)
        old = fed.sealed().entry(SITES[spare]).identity_key
        anew = next(row for row in fed.store.credentials(SITES[spare]) if row.identity_key != old)
        fed.store.connected(anew.fingerprint, fed.clock.unix())  # its node comes with the new keys
        launched = fed.home.audit.size
        told = fails(4, "roster-outdated", "coordinator", "launch", digest[:8], *home)
        assert f"at least {least}" in told.err
        assert ", ".join(sorted(SITES[: spare + 1])) in told.err
        assert "propose it again" in told.err
        assert fed.home.audit.size == launched


# --- the service --------------------------------------------------------------------------------------------------


@pytest.mark.timeout(60)
@pytest.mark.parametrize("which", ["port", "control_port"])
def test_port_in_use_is_named(home: Path, which: str) -> None:
    port = getattr(CoordinatorHome.open(home).settings, which)
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        with signals_kept():
            ran = fedward("coordinator", "start", "--home", home)
    assert ran.code == 6, ran
    assert f"Port {port}" in ran.err
    assert "another program uses it" in ran.err
    assert good("coordinator", "status", "--home", home)["serving"] is False


@pytest.mark.federation
@pytest.mark.timeout(60)
def test_two_services_of_one_home(loopback: Loopback) -> None:
    with signals_kept():
        ran = fedward("coordinator", "start", "--home", loopback.home)
    assert ran.code == 2, ran
    assert f"process {os.getpid()}" in ran.err
    assert good("coordinator", "status", "--home", loopback.home)["serving"] is True


@pytest.mark.federation
def test_proposal_without_enough_data_fails_by_name(loopback: Loopback, tmp_path: Path) -> None:
    """Nobody has registered data for it: each site's refusal is named."""
    study = write_study(tmp_path / "study.toml", "nobody-has-data")
    ran = fedward("coordinator", "propose", study, "--home", loopback.home, "--json")
    assert ran.code == 4
    assert ran.json["error"] == "not-proposed"
    for site in SITES:
        assert f"{site}: refused: no-data" in ran.json["got"]
    view = good("coordinator", "status", "nobody-has-data", "--home", loopback.home)
    assert view["state"] == "failed"
    wait_for("the service is free again", lambda: loopback.coordinator.status("nobody-has-data").wish == "none")


def test_an_alarm_about_a_ledger_is_shown_until_a_named_person_clears_it(fed: Federation) -> None:
    where = ("--home", fed.home.path)
    assert good("coordinator", "status", *where)["alarms"] == []
    fed.store.raise_alarm("va", "its ledger went back from entry 9 to entry 4", 1_900_000_000)
    told = fedward("coordinator", "status", *where).out
    assert "ALARM 2030-03-17 17:46 UTC: va: its ledger went back" in " ".join(told.split())
    assert "clear-alarm va --by NAME" in " ".join(told.split())
    (alarm,) = good("coordinator", "status", *where)["alarms"]
    assert (alarm["site"], alarm["at"]) == ("va", 1_900_000_000)

    fails(2, "usage", "coordinator", "clear-alarm", "va", "--by", " ", "--reason", "x", *where)
    fails(3, "bad-input", "coordinator", "clear-alarm", "cleveland", "--by", "Ada", "--reason", "x", *where)
    assert len(good("coordinator", "status", *where)["alarms"]) == 1
    cleared = good("coordinator", "clear-alarm", "va", "--by", "Ada", "--reason", "a restored disk", *where)
    assert cleared == {"site": "va", "by": "Ada", "reason": "a restored disk"}
    assert good("coordinator", "status", *where)["alarms"] == []
