"""The doctor's round: gathers the facts of one site and lets `doctor` judge them. It changes nothing, and never raises.

It works before the site has joined, and while its node runs: what cannot be checked yet says so.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from fedward.client import approvals, datasets, doctor
from fedward.client.doctor import Finding
from fedward.client.enrolment import check_chain, check_keys, read_certificate
from fedward.client.exposure import exposed, foreign
from fedward.client.home import SiteHome
from fedward.client.mapping import load_mapping
from fedward.client.node_state import node_state
from fedward.client.policy import load_policy
from fedward.client.running import fleet_address
from fedward.client.unlock import WRAPPED_NAME, kept_under
from fedward.privacy.errors import FedwardError
from fedward.study.audit import FOLDER, MARK
from fedward.study.files import read_secret
from fedward.study.versions import PROTOCOL, TESTED, installed

SERVICE = "fedward-site.service"
_KEYS = ("identity.pem", "node.pem", "tls.pem", "patients.key")
_NOT_JOINED = "the site has not joined a federation yet"
_JOIN = "fedward site enroll KIT"


def examine(home: SiteHome, now: datetime | None = None) -> list[Finding]:
    """Every check's finding, in a fixed order."""
    at = now or datetime.now(UTC)
    found: list[Finding] = []
    for check, look in (
        ("versions", lambda: [_versions()]),
        ("disk", lambda: [doctor.disk(shutil.disk_usage(home.path).free)]),
        ("memory", lambda: [doctor.memory(_available(), node_runs=_runs(home))]),
        ("permissions", lambda: [doctor.permissions(exposed(home.path), foreign(home.path))]),
        ("encryption", lambda: [_encryption(home)]),
        ("keys", lambda: [_keys(home)]),
        ("policy", lambda: [_policy(home)]),
        ("certificate", lambda: [_certificate(home, at)]),
        ("chain", lambda: [_chain(home)]),
        ("network", lambda: list(_network(home))),
        ("data", lambda: list(_data(home))),
        ("ledger", lambda: [_ledger(home)]),
        ("audit", lambda: [_audit(home)]),
        ("node", lambda: [_node(home)]),
        ("service", lambda: [_service()]),
    ):
        found += _outliving(check, look)
    return found


def _outliving(check: str, look: Callable[[], list[Finding]]) -> list[Finding]:
    """A check that fails in an unforeseen way is a finding too: the others go on. Texts of foreign errors may hold values."""
    try:
        return look()
    except FedwardError as error:
        return [doctor.from_error(check, error)]
    except Exception as error:  # noqa: BLE001 - as above
        return [
            Finding(check, "failed", f"the check itself failed: {type(error).__name__}", "report it", "internal-error")
        ]


def _versions() -> Finding:
    found = doctor.versions({name: installed(name) for name in TESTED})
    own = installed("fedward") or "from source"
    return Finding(
        found.check, found.state, f"fedward {own}, protocol {PROTOCOL}; {found.text}", found.remedy, found.code
    )


def _available() -> int | None:
    """Bytes that a process may take now: what the machine has left, or the control group's limit if that is less."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    fields = {line.split(":")[0]: line.split()[1] for line in lines if ":" in line}
    free = int(fields["MemAvailable"]) * 1024 if "MemAvailable" in fields else None
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text(encoding="ascii").strip() if limit.is_file() else "max"
    if not text.isdigit():
        return free
    used = Path("/sys/fs/cgroup/memory.current")
    left = int(text) - (int(used.read_text(encoding="ascii")) if used.is_file() else 0)
    return left if free is None else min(free, left)


def _runs(home: SiteHome) -> bool:
    return node_state(home)["pid"] is not None


def _encryption(home: SiteHome) -> Finding:
    if not home.key(WRAPPED_NAME).exists():
        return doctor.encryption(None, key_inside=False)
    kept = kept_under(home.path)
    inside = kept.under == "file" and (home.path / kept.key_file).resolve().is_relative_to(home.path.resolve())
    return doctor.encryption(kept.under, key_inside=inside)


def _keys(home: SiteHome) -> Finding:
    for key in _KEYS:
        read_secret(home.key(key), f"the key {key}")
    home.identity()
    home.patient_key()
    check_keys(home)
    return Finding("keys", "ok", "all four are there and can be read by this user alone")


def _policy(home: SiteHome) -> Finding:
    policy = load_policy(home.policy_file)
    return Finding("policy", "ok", f"holds; ε of a study at most {policy.max_epsilon:g}")


def _certificate(home: SiteHome, now: datetime) -> Finding:
    if not home.kit_file.is_file():
        return Finding("certificate", "unchecked", _NOT_JOINED, _JOIN)
    made = read_certificate(home.certificate_file)
    return doctor.certificate(made.not_valid_before_utc, made.not_valid_after_utc, now)


def _chain(home: SiteHome) -> Finding:
    if not home.kit_file.is_file():
        return Finding("chain", "unchecked", _NOT_JOINED, _JOIN)
    check_chain(home)
    return Finding("chain", "ok", "the certificate is by the federation's CA and for this site's key")


def _network(home: SiteHome) -> Iterator[Finding]:
    if not home.kit_file.is_file():
        for check in ("proxy", "coordinator", "tls", "clock"):
            yield Finding(check, "unchecked", _NOT_JOINED, _JOIN)
        return
    # Flower takes seconds to import: only where there is somebody to ask.
    from fedward.client.flower.probe import probe  # noqa: PLC0415

    address = fleet_address(home)
    seen = probe(address)
    yield Finding("proxy", "ok", "none; the connection is direct" if seen.proxy is None else f"by way of {seen.proxy}")
    where = f"{address.host}:{address.port}"
    if seen.code:
        remedy = (
            "see that this machine may open an outbound connection there (firewall, proxy, DNS), and that the "
            "coordinator's service runs"
        )
        yield Finding("coordinator", "failed", f"{where}: {seen.text}", remedy, seen.code)
    else:
        yield Finding("coordinator", "ok", f"{where} answers")
    yield doctor.tls(seen.tls)
    yield doctor.clock(seen.offset_s)


def _data(home: SiteHome) -> Iterator[Finding]:
    names = datasets.registered(home)
    if not names:
        yield Finding("data", "unchecked", "no data is registered yet", "fedward site register --study STUDY.toml …")
    manifests = {}
    if home.kit_file.is_file():
        manifests = {sealed.manifest.study.id: sealed.manifest for sealed in approvals.proposals(home)}
    for name in names:
        yield from _outliving("data", lambda name=name: [_dataset(home, name, manifests.get(name))])  # type: ignore[misc]


def _dataset(home: SiteHome, name: str, manifest: object) -> Finding:
    dataset = datasets.find(home, name)
    if manifest is None:
        datasets.unchanged(dataset)
        load_mapping(Path(dataset.mapping))
        return Finding("data", "ok", f"{name}: the file and mapping are those that were registered")
    rows = len(datasets.read(home, dataset, manifest).index)  # type: ignore[arg-type]
    return Finding("data", "ok", f"{name}: unchanged since it was registered, and fits the study in {rows} rows")


def _ledger(home: SiteHome) -> Finding:
    witness = home.countersigned_head()
    with home.ledger() as ledger:
        ledger.verify(witness)
        entries, budget = len(ledger.entries()), ledger.budget.epsilon
        text = f"holds: {entries} entries, ε = {ledger.committed():g} of {budget:g} spent or reserved"
    known = "no head is countersigned yet" if witness is None else f"it has the countersigned entry {witness.sequence}"
    return Finding("ledger", "ok", f"{text}; {known}")


def _audit(home: SiteHome) -> Finding:
    if not (home.path / FOLDER).is_dir() and not (home.path / MARK).is_file():
        return Finding("audit", "unchecked", "nothing is recorded yet")
    return Finding("audit", "ok", f"holds: {home.audit.verify()} entries, each in its place")


def _node(home: SiteHome) -> Finding:
    state = node_state(home)
    if state["pid"] is None:
        return Finding("node", "warning", f"not running ({state['state']})", "fedward site start")
    return Finding("node", "ok", f"runs as process {state['pid']}: {state['state']}, at {state['at']}")


def _service() -> Finding:
    systemctl = shutil.which("systemctl")
    if systemctl is None or not Path("/run/systemd/system").is_dir():
        return Finding("service", "unchecked", "systemd does not run this machine")
    asked = subprocess.run(  # noqa: S603 - a fixed command, found on the path of whoever runs the doctor
        [systemctl, "show", "--property=LoadState,ActiveState,UnitFileState", SERVICE],
        capture_output=True, text=True, timeout=10, check=False, env=dict(os.environ, LC_ALL="C"),
    )  # fmt: skip
    return service(dict(line.split("=", 1) for line in asked.stdout.splitlines() if "=" in line))


def service(shown: dict[str, str]) -> Finding:
    """What `systemctl show` says of the unit."""
    if shown.get("LoadState") != "loaded":
        return Finding("service", "warning", "no service is installed: the node does not start with this machine",
                       "fedward site service --install")  # fmt: skip
    active, enabled = shown.get("ActiveState", ""), shown.get("UnitFileState", "")
    if active != "active":
        return Finding(
            "service", "failed", f"{SERVICE} is {active}", f"journalctl -u {SERVICE}, then systemctl start it"
        )
    if enabled != "enabled":
        return Finding("service", "warning", f"{SERVICE} runs, but will not start with this machine",
                       f"systemctl enable {SERVICE}")  # fmt: skip
    return Finding("service", "ok", f"{SERVICE} runs and starts with this machine")
