"""`fedward audit`: what its owner and its auditor see of an audit log."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from federation import Federation, heart_manifest

from fedward.cli.main import _code
from fedward.client.home import SiteHome
from fedward.privacy.signing import fingerprint
from fedward.server.checkpoints import exchange_checkpoints
from fedward.server.heads import WitnessTransport


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    """A study was run, and audit logs were compared."""
    federation = Federation(tmp_path_factory.mktemp("federation"), sites=("cleveland", "hungarian", "va"))
    federation.ready(heart_manifest(training={"rounds": 1}))
    federation.run()
    exchange(federation)
    return federation


def exchange(federation: Federation) -> None:
    transport = WitnessTransport(federation.transport, federation.store, federation.clock)
    exchange_checkpoints(federation.home, federation.store, transport, federation.clock, federation.said.append)


@pytest.fixture
def federation(made: Federation, tmp_path: Path) -> Federation:
    return made.copy(tmp_path / "federation")


class Cli:
    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: object, code: int = 0) -> str:
        assert _code(["audit", *map(str, arguments)]) == code
        out, err = self._capsys.readouterr()
        return out + err

    def json(self, *arguments: object, code: int = 0) -> dict[str, Any]:
        data: dict[str, Any] = json.loads(self(*arguments, "--json", code=code))
        return data


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(capsys)


def test_everything_that_happened_stands_in_both_logs(federation: Federation) -> None:
    site = [entry.kind for entry in federation.sites["va"].audit.entries()]
    assert site[0] == "begun"
    assert "enrolled" in site
    for kind in (
        "data-registered",
        "declared",
        "proposed",
        "approved",
        "reserved",
        "charged",
        "round-answered",
        "released",
    ):
        assert kind in site, kind
    assert site.index("charged") < site.index("round-answered")
    coordinator = [entry.kind for entry in federation.home.audit.entries()]
    assert coordinator[:4] == ["begun", "enrolled", "enrolled", "enrolled"]
    assert {"round-outcome", "run-ended", "checkpoint-received"} <= set(coordinator)


def test_an_export_is_verified_by_who_has_nothing_else(federation: Federation, cli: Cli, tmp_path: Path) -> None:
    home = federation.sites["va"]
    key, out = home.identity().public, tmp_path / "va.audit"
    assert "Wrote" in cli("export", out, "--home", home.path)
    assert oct(out.stat().st_mode)[-3:] == "600"
    told = cli("verify", out)
    for text in (home.audit.origin, "every entry, the root and the signature hold", "cosigned by fedward/coordinator/",
                 "The key was not compared", fingerprint(key)):  # fmt: skip
        assert text in told
    data = cli.json("verify", out, "--key", fingerprint(key))
    assert (data["holds"], data["keys_compared"], data["exports"][0]["key"]) == (True, True, key)
    assert home.audit.entry(home.audit.size - 1).kind == "exported"
    assert cli.json("verify", out, "--key", "0" * 64, code=5)["error"] == "foreign-key"


def test_exports_of_all_parties_agree(federation: Federation, cli: Cli, tmp_path: Path) -> None:
    files = []
    for name, path in [("coordinator", federation.home.path), *((n, h.path) for n, h in federation.sites.items())]:
        files.append(tmp_path / f"{name}.audit")
        cli("export", files[-1], "--home", path)
    data = cli.json("verify", *files)
    assert len(data["contained"]) >= 6
    assert data["not_compared"] == []
    assert len(cli.json("verify", *files[1:])["not_compared"]) >= 3


def test_a_changed_export_is_named_and_exits_with_5(federation: Federation, cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "va.audit"
    cli("export", out, "--home", federation.sites["va"].path)
    data = out.read_bytes()
    out.write_bytes(data.replace(b'"kind":"approved"', b'"kind":"approveD"'))
    error = cli.json("verify", out, code=5)
    assert error["error"] == "audit-changed"
    assert "va.audit: entry " in error["what"]
    out.write_bytes(data[:-200])
    assert cli.json("verify", out, code=5)["error"] == "audit-truncated"
    assert cli.json("verify", tmp_path / "none", code=3)["error"] == "bad-input"


def test_two_histories_of_one_site_are_a_fork(federation: Federation, cli: Cli, tmp_path: Path) -> None:
    home = federation.sites["va"]
    shutil.copytree(home.path, tmp_path / "other")
    other = SiteHome.open(tmp_path / "other")
    home.record("paused", by="Dr. Who")
    other.record("resumed", by="Dr. Who")
    cli("export", tmp_path / "one", "--home", home.path)
    cli("export", tmp_path / "two", "--home", other.path)
    error = cli.json("verify", tmp_path / "one", tmp_path / "two", code=5)
    assert error["error"] == "audit-forked"


def test_show_filters_and_shortens(federation: Federation, cli: Cli) -> None:
    home = federation.sites["va"]
    study = federation.sealed().digest
    told = cli("show", "--home", home.path, "--kind", "approved")
    assert "  approved  by=" in told
    assert f"study={study[:12]}…" in told
    assert "1 of " in told
    found = cli.json("show", "--home", home.path, "--study", study[:10], "--kind", "charged", "--kind", "approved")
    assert {entry["kind"] for entry in found["entries"]} == {"approved", "charged"}
    assert cli.json("show", "--home", home.path, "--study", "heart-4-hospitals")["found"] > 1
    assert cli.json("show", "--home", home.path, "--since", "2099-01-01")["entries"] == []
    assert len(cli.json("show", "--home", home.path, "--last", "3")["entries"]) == 3
    assert cli.json("show", "--home", federation.home.path, "--kind", "enrolled")["found"] == 3
    assert cli.json("show", "--home", home.path, "--kind", "aproved", code=2)["error"] == "usage"
    assert cli.json("show", "--home", home.path / "nowhere", code=3)["error"] == "bad-input"


def test_a_proof_shows_one_entry_and_nothing_else(
    federation: Federation, cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home, out = federation.sites["va"], tmp_path / "proof.json"
    number = next(entry.number for entry in home.audit.entries() if entry.kind == "approved")
    cli("prove", number, "--out", out, "--home", home.path)
    assert "this entry is in the log" in cli("verify", out)
    data = out.read_bytes()
    assert data.count(b'\\"kind\\"') == 1
    export = tmp_path / "va.audit"
    cli("export", export, "--home", home.path)
    assert cli.json("verify", out, export)["contained"]
    for at in range(0, len(data), 13):  # every byte of an export is changed in test_audit_export
        out.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        assert _code(["audit", "verify", str(out), "--json"]) in {3, 5}, at
    capsys.readouterr()
    assert cli.json("prove", "99999", "--out", out, "--home", home.path, code=2)


def test_a_checkpoint_alone_needs_its_key(federation: Federation, cli: Cli, tmp_path: Path) -> None:
    home, note = federation.sites["va"], tmp_path / "note"
    cli("export", tmp_path / "va.audit", "--home", home.path)
    note.write_text(home.audit.kept_checkpoint() or "")
    assert cli.json("verify", note, code=2)["error"] == "usage"
    assert cli.json("verify", note, "--key", home.identity().public)["holds"]
    assert cli.json("verify", note, tmp_path / "va.audit")["contained"]
    note.write_text(note.read_text().replace(f"\n{home.audit.size - 1}\n", f"\n{home.audit.size}\n", 1))
    assert cli.json("verify", note, "--key", home.identity().public, code=5)["error"] == "bad-signature"
    note.write_text(note.read_text() + "x")
    assert cli.json("verify", note, "--key", home.identity().public, code=3)["error"] == "audit-malformed"


def test_rotation_keeps_six_years_at_least(federation: Federation, cli: Cli) -> None:
    home = federation.sites["va"]
    assert cli.json("rotate", "--home", home.path)["removed"] == 0
    assert cli.json("rotate", "--home", home.path, "--retention-days", "30", code=2)["error"] == "usage"


def test_the_page_checks_an_export_by_hand(federation: Federation, cli: Cli, tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "audit.md").read_text()
    program = page.split("```python\n")[1].split("```")[0]
    out = tmp_path / "va.audit"
    cli("export", out, "--home", federation.sites["va"].path)
    for data, code in ((out.read_bytes(), 0), (out.read_bytes().replace(b'"begun"', b'"began"'), 1)):
        out.write_bytes(data)
        done = subprocess.run([sys.executable, "-c", program, str(out)], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout.startswith("fedward/site/va/")) == (code, code == 0), done.stderr
