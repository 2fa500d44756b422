"""The audit log's figures: `python benchmarks/audit.py` prints one a line and exits with 1 if any falls short.

A log of a million entries is written at once, the way that its appends leave it: the figures are not about that. Its export is
then verified, entry by entry, and proofs are made from its files and checked.
"""

from __future__ import annotations

import itertools
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

# Run as a file, Python looks for modules beside it; ours are found from the folder above.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.figures import Figure, Part, at_most, report
from benchmarks.timing import fastest, timed
from fedward.privacy.auditentries import Value, make_entry
from fedward.privacy.auditexport import Trailer, read_audit_export, write_audit_export
from fedward.privacy.auditproof import read_proof, write_proof
from fedward.privacy.checkpoint import sign_checkpoint
from fedward.privacy.log import SEGMENT_BYTES, AuditLog
from fedward.privacy.merkle import Range, leaf_hash
from fedward.privacy.signing import Identity

ENTRIES, APPENDS, PROOFS = 1_000_000, 200, 100
ORIGIN = "fedward/site/benchmark/0123456789abcdef"
AT = 1_900_000_000


def appends() -> list[Figure]:
    """Median milliseconds of an append, beside a bare write that is synced."""
    with tempfile.TemporaryDirectory() as folder:
        log = AuditLog.create(Path(folder) / "audit", ORIGIN, AT)
        took, bare = [], []
        with (Path(folder) / "bare").open("wb", buffering=0) as file:
            for number in range(APPENDS):  # in turns, so that a slow minute meets both
                began = time.perf_counter()
                log.append("charged", _charge(number), AT + number)
                took.append(time.perf_counter() - began)
                began = time.perf_counter()
                file.write(bytes(320))
                os.fdatasync(file.fileno())
                bare.append(time.perf_counter() - began)
    median, least = statistics.median(took), statistics.median(bare)
    return [
        at_most("audit.append_median", 1000 * median, "ms", 5.0),
        report("audit.append_beside_a_synced_write", median / least, "ratio"),
    ]


def a_million() -> list[Figure]:
    """Verifying an export, opening a log, and a proof, of a million entries."""
    with tempfile.TemporaryDirectory() as folder:
        log, identity = _filled(Path(folder) / "audit"), Identity.generate()
        out = Path(folder) / "export"
        trailer = Trailer(sign_checkpoint(log.checkpoint(), identity))
        with out.open("wb") as file:
            write_audit_export(file, log.leaves(ENTRIES), log.entries(), trailer, identity, AT)
        (verified,) = fastest(1, timed(lambda: _verify(out, identity)))
        (opened,) = fastest(3, timed(lambda: AuditLog.open(log.folder)))
        numbers = itertools.cycle(range(0, ENTRIES, ENTRIES // PROOFS + 1))
        (proved,) = fastest(PROOFS, timed(lambda: _prove(log, next(numbers), trailer, identity)))
        (consistent,) = fastest(PROOFS, timed(lambda: log.consistency(next(numbers) + 1, ENTRIES)))
        return [
            at_most("audit.verify_a_million", verified, "s", 60.0),
            report("audit.export_size", out.stat().st_size / 1e6, "MB"),
            report("audit.open_a_million", 1000 * opened, "ms"),
            at_most("audit.proof_of_inclusion", 1000 * proved, "ms", 50.0),
            report("audit.proof_of_consistency", 1000 * consistent, "ms"),
        ]


def _charge(number: int) -> dict[str, Value | None]:
    return {"study": "a" * 64, "study_id": "heart", "round": number, "attempt": 1, "purpose": "train", "entry": number}


def _filled(folder: Path) -> AuditLog:
    log, range_, nodes = AuditLog.create(folder, ORIGIN, AT), Range(), bytearray()
    lines, first, size = [log.entry(0).data + b"\n"], 0, 0
    nodes += b"".join(range_.append(leaf_hash(log.entry(0).data)))
    for number in range(1, ENTRIES):
        data = make_entry(number, AT, "charged", _charge(number)).data
        if size + len(data) > SEGMENT_BYTES:
            (folder / "entries" / f"{first:012d}.log").write_bytes(b"".join(lines))
            lines, first, size = [], number, 0
        lines.append(data + b"\n")
        size += len(data) + 1
        nodes += b"".join(range_.append(leaf_hash(data)))
    (folder / "entries" / f"{first:012d}.log").write_bytes(b"".join(lines))
    log.tree.path.write_bytes(nodes)
    return AuditLog.open(folder)


def _verify(path: Path, identity: Identity) -> None:
    with path.open("rb") as file:
        found = read_audit_export(file, identity.public)
    if found.size != ENTRIES:
        raise RuntimeError(f"the export has {found.size} entries")


def _prove(log: AuditLog, number: int, trailer: Trailer, identity: Identity) -> None:
    """Make a proof file and check it."""
    proof = write_proof(log.entry(number), log.inclusion(number, ENTRIES), trailer.checkpoint, identity.public)
    read_proof(proof, identity.public)


PARTS: list[Part] = [appends, a_million]


def main() -> int:
    """Run it; the exit status is 1 if a figure falls short, else 0."""
    return 0 if all(figure.ok for part in PARTS for figure in part()) else 1


if __name__ == "__main__":
    sys.exit(main())
