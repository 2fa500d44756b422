"""What may be wrong with a site, judged from facts: each check gives one finding, ok or what to do. Pure.

`checkup` gathers the facts. A finding never holds a patient's value, a secret, or a name from the hospital's data beyond the
study and file that a person registered: it is shown on this machine, and a support bundle takes its checks and states alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from fedward.privacy.errors import FedwardError
from fedward.study.versions import TESTED, Known, in_range

State = Literal["ok", "warning", "failed", "unchecked"]

MB: Final = 2**20
CLOCK_WARNING_S: Final = 2.0
# Flower refuses a signed request that comes from more than 5 s ahead, or is more than 300 s old.
CLOCK_AHEAD_S: Final = 5.0
CLOCK_BEHIND_S: Final = 300.0
DISK_FAILED: Final = 100 * MB
DISK_WARNING: Final = 1024 * MB
# A node takes 575 MB (README); data in memory comes on top.
MEMORY_FAILED: Final = 600 * MB
MEMORY_WARNING: Final = 1024 * MB
CERTIFICATE_WARNING_DAYS: Final = 30


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's: which check, how it ended, what was seen, and what to do unless it is ok."""

    check: str
    state: State
    text: str
    remedy: str = ""
    code: str = ""


def from_error(check: str, error: FedwardError, what: str = "") -> Finding:
    """A check that ended in an error of ours: its text says what was expected and what came."""
    seen = error.what if error.got is None else f"{error.what} (got {error.got})"
    return Finding(check, "failed", f"{what}{seen}", error.remedy or "see the site's log", error.code)


def clock(offset_s: float | None) -> Finding:
    """`offset_s`: how far this machine's clock is ahead of the coordinator's, in seconds; None if that was not learnt."""
    if offset_s is None:
        return Finding(
            "clock", "unchecked", "no time of the coordinator's to compare with", "see the check coordinator"
        )
    seen = f"this machine's clock is {offset_s:+.0f} s off the coordinator's"
    remedy = "set this machine's clock by NTP (timedatectl set-ntp true), or ask which of the two clocks is wrong"
    if not -CLOCK_BEHIND_S < offset_s < CLOCK_AHEAD_S:
        return Finding("clock", "failed", f"{seen}: its requests are refused", remedy, "clock-skew")
    if abs(offset_s) > CLOCK_WARNING_S:
        return Finding("clock", "warning", seen, remedy)
    return Finding("clock", "ok", f"within {CLOCK_WARNING_S:g} s of the coordinator's")


def certificate(begins: datetime, ends: datetime, now: datetime) -> Finding:
    """The dates of the site's certificate."""
    if not begins <= now < ends:
        text = f"valid from {begins:%Y-%m-%d} to {ends:%Y-%m-%d}, and today is {now:%Y-%m-%d}"
        remedy = "check the clock; if it is right: fedward site request, and enroll the kit that comes back"
        return Finding("certificate", "failed", text, remedy, "certificate-expired")
    days = (ends - now).days
    if days < CERTIFICATE_WARNING_DAYS:
        remedy = "fedward site request, and enroll the kit that comes back"
        return Finding("certificate", "warning", f"expires in {days} days", remedy)
    return Finding("certificate", "ok", f"valid for {days} more days")


def tls(version: str | None) -> Finding:
    """The TLS version of the connection."""
    if version is None:
        return Finding("tls", "unchecked", "no connection to the coordinator", "see the check coordinator")
    if version != "TLSv1.3":
        return Finding("tls", "failed", f"the connection is {version}", "something between changes it: ask for TLS 1.3")
    return Finding("tls", "ok", "TLS 1.3, both sides with certificates of the federation's CA")


def disk(free_bytes: int) -> Finding:
    """Free space where the home lies, in bytes."""
    seen, remedy = f"{free_bytes // MB} MB free", "free space, or move the home to a larger disk"
    if free_bytes < DISK_FAILED:
        return Finding(
            "disk", "failed", seen, f"{remedy}; without space nothing can be charged, so nothing trains", "disk"
        )
    if free_bytes < DISK_WARNING:
        return Finding("disk", "warning", seen, remedy)
    return Finding("disk", "ok", seen)


def memory(available_bytes: int | None, *, node_runs: bool) -> Finding:
    """Memory that a process may take now, in bytes; a node that runs already has its own."""
    if available_bytes is None:
        return Finding("memory", "unchecked", "this system does not say how much memory is free")
    seen, remedy = f"{available_bytes // MB} MB available", "end other programs, or give this machine more memory"
    if node_runs:
        return Finding("memory", "ok", f"{seen}, beside the node that runs")
    if available_bytes < MEMORY_FAILED:
        return Finding("memory", "failed", f"{seen}; a node needs {MEMORY_FAILED // MB} MB and its data", remedy)
    if available_bytes < MEMORY_WARNING:
        return Finding("memory", "warning", seen, remedy)
    return Finding("memory", "ok", seen)


def permissions(exposed: Sequence[str], foreign: Sequence[str]) -> Finding:
    """`exposed`: files of the home that others can read or write; `foreign`: files that belong to another user."""
    if exposed:
        remedy = "chmod 600 these files and 700 their folders; make new keys if others had access to one"
        return Finding("permissions", "failed", f"others can reach {_few(exposed)}", remedy, "permissions")
    if foreign:
        remedy = "chown the home to the user that runs the node, and run every command as that user"
        return Finding("permissions", "failed", f"another user owns {_few(foreign)}", remedy, "permissions")
    return Finding("permissions", "ok", "every secret is its owner's alone")


def versions(found: Mapping[str, str | None], table: Mapping[str, Known] = TESTED) -> Finding:
    """`found`: the installed version of each package of the table, None where it is missing."""
    missing = [name for name in table if found.get(name) is None]
    outside = [f"{name} {seen}" for name in table if (seen := found.get(name)) and not in_range(seen, table[name])]
    remedy = "install the tested set again, from the offline kit or by constraints.txt"
    if missing or outside:
        text = "; ".join(
            [f"missing: {', '.join(missing)}"] * bool(missing)
            + [f"not supported: {', '.join(outside)}"] * bool(outside)
        )
        return Finding("versions", "failed", text, remedy, "versions")
    other = [
        f"{name} {found[name]} (tested: {table[name].tested})" for name in table if found[name] != table[name].tested
    ]
    if other:
        return Finding("versions", "warning", f"not the tested set: {', '.join(other)}", remedy)
    return Finding(
        "versions", "ok", f"the tested set: {', '.join(f'{name} {found[name]}' for name in list(table)[:3])} …"
    )


def encryption(under: Literal["passphrase", "file"] | None, *, key_inside: bool) -> Finding:
    """How the home is encrypted at rest: `under` a passphrase or a key file, which may lie inside the home."""
    if under is None:
        remedy = "fedward site migrate encrypts it in place"
        return Finding("encryption", "failed", "this home is not encrypted at rest", remedy, "not-encrypted")
    if under == "file" and key_inside:
        remedy = "keep it elsewhere, or set a passphrase: fedward site passphrase"
        return Finding("encryption", "warning", "encrypted, but its key file lies in the home itself", remedy)
    how = "a passphrase" if under == "passphrase" else "a key file outside the home"
    return Finding("encryption", "ok", f"encrypted at rest under {how}")


def verdict(findings: Sequence[Finding]) -> State:
    """The worst that was found; what could not be checked is no failure."""
    states = {finding.state for finding in findings}
    return "failed" if "failed" in states else "warning" if "warning" in states else "ok"


def _few(names: Sequence[str]) -> str:
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
