"""A study's archive: every file that its record gives to an auditor, none of it secret, equal bytes for an equal record. Pure.

Left out are keys, which no record of a study holds; the optimiser's state, which only a study that goes on needs; and the raw
histograms, which the metrics were derived from.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from fedward.privacy.signing import to_text
from fedward.server.explaining import explain
from fedward.server.histories import History
from fedward.server.records import AttemptRow
from fedward.study.drafts import draft
from fedward.study.transcript import Transcript

SUMS = "SHA256SUMS"


@dataclass(frozen=True)
class ModelFile:
    """A committed model: `version` is the number of rounds behind it, `digest` that of its parameters, and its file's name."""

    version: int
    digest: str

    @property
    def path(self) -> str:
        return f"models/{self.digest}.safetensors"


def models(history: History) -> tuple[ModelFile, ...]:
    """The initial model and every committed one, in order, each once."""
    started = [entry.data["model"] for entry in history.journal if entry.kind == "started"]
    found = {0: started[0]} if started else {}
    found |= {
        row.round: row.model
        for row in history.view.attempts
        if row.model is not None and row.round <= history.view.rounds
    }
    by_digest: dict[str, int] = {}
    for version, digest in sorted(found.items()):
        by_digest.setdefault(digest, version)
    return tuple(ModelFile(version, digest) for digest, version in by_digest.items())


def documents(history: History, transcript: Transcript | None) -> dict[str, bytes]:
    """Every file beside the models and the checksums, by its path, README.txt first."""
    view, study = history.view, history.study
    short = {
        "study_id": view.study_id, "title": view.title, "digest": view.digest, "kind": view.kind, "state": view.state,
        "reason": view.reason, "invited": study.invited, "sites": history.sites, "created_at": study.created_at,
        "changed_at": study.changed_at, "rounds": view.rounds, "committed": view.version, "model": view.model,
        "epsilon": view.epsilon, "delta": view.delta, "epsilon_all_others": view.epsilon_all_others,
        "privacy": view.meaning, "contributions": view.contributions(),
    }  # fmt: skip
    made: dict[str, bytes] = {
        "study.json": _json(short),
        "manifest.toml": draft(history.manifest),
        "standings.json": _json([asdict(row) | {"evidence": _evidence(history, row.site)} for row in view.standings]),
        "journal.jsonl": b"".join(_line(asdict(entry)) for entry in history.journal),
        "attempts.json": _json([_attempt(history, row) for row in view.attempts]),
        "metrics.json": _json([asdict(row) for row in view.metrics]),
        "models.json": _json([asdict(model) | {"file": model.path} for model in models(history)]),
        "explanation.json": _json(explain(history).as_json()),
    }
    if history.study.sealed is not None and history.study.signature is not None:
        made["manifest.json"] = history.study.sealed
        made["manifest.sig"] = f"{to_text(history.study.signature)}\n".encode()
    if view.answers is not None:
        made["answers.json"] = _json([asdict(answer) for answer in view.answers])
    if transcript is not None:
        made["transcript.json"] = transcript.model_dump_json().encode()
    return {"README.txt": readme(history, made), **dict(sorted(made.items()))}


def archive(
    history: History, transcript: Transcript | None, model: Callable[[str], bytes]
) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Every file's path and how to get its bytes, one after the other; the checksums come last.

    Args:
        model: the bytes of the model file of a digest, checked.
    """
    sums: dict[str, str] = {}

    def summed(path: str, data: bytes) -> bytes:
        sums[path] = hashlib.sha256(data).hexdigest()
        return data

    for path, data in documents(history, transcript).items():
        yield path, lambda path=path, data=data: summed(path, data)  # type: ignore[misc]
    for one in models(history):
        yield one.path, lambda one=one: summed(one.path, model(one.digest))  # type: ignore[misc]
    yield SUMS, lambda: checksums(sums)


def checksums(sums: Mapping[str, str]) -> bytes:
    """The list that `sha256sum --check` reads."""
    return "".join(f"{digest}  {path}\n" for path, digest in sorted(sums.items())).encode()


_FILES = {
    "study.json": "the study in short: state and reason, hospitals, rounds, ε and what it means; times are Unix seconds",
    "manifest.json": "the sealed manifest, byte by byte as hospitals approved it; its SHA-256 is the study's digest",
    "manifest.sig": "the coordinator's Ed25519 signature on it, base64; its public key is the manifest's coordinator_key",
    "manifest.toml": "the same manifest in the form in which an author writes it",
    "standings.json": "what each hospital said of the proposal last; evidence is its signed message, base64",
    "journal.jsonl": "the coordinator's journal of the study, one entry a line, in the order of what happened",
    "attempts.json": "every attempt at a round: whom it asked, its outcome, every hospital's status and reason",
    "metrics.json": "what was measured on held-out patients, from counts summed over hospitals, with 95% intervals",
    "models.json": "the models: the rounds behind each, the digest of its parameters, its file",
    "explanation.json": "the same history explained: events, each hospital's part, every reason's meaning, what came next",
    "answers.json": "what an exploration answered",
    "transcript.json": "the secure sums, for anyone to check: fedward audit transcript transcript.json",
}


def readme(history: History, made: Mapping[str, bytes]) -> bytes:
    """What lies in the archive, for who never saw Fedward."""
    view = history.view
    lines = [
        f'The record of the study "{view.title}" ({view.study_id}), from the coordinator of a federation of hospitals.',
        f"Digest: {view.digest or 'none, it was never sealed'}. State: {view.state}{f' ({view.reason})' if view.reason else ''}.",
        "",
        "It holds what the coordinator knows: names of hospitals, outcomes, sums and models. It holds no patient's record, no",
        "key and no hospital's own log. A trained model can tell something of the patients it was trained on; ε in study.json",
        "bounds it.",
        "",
        *(f"{path:<18}{_FILES[path]}" for path in sorted(made)),
        f"{'models/':<18}parameters of the initial model and of each committed round, in the safetensors format",
        f"{SUMS:<18}the SHA-256 of every other file; check it by: sha256sum --check {SUMS}",
        "",
        "The name of a model's file is the digest of its parameters, which attempts.json and journal.jsonl name; its file's own",
        f"SHA-256 stands in {SUMS}.",
    ]  # fmt: skip
    return ("\n".join(lines) + "\n").encode()


def _evidence(history: History, site: str) -> str | None:
    return to_text(history.evidence[site]) if site in history.evidence else None


def _attempt(history: History, row: AttemptRow) -> dict[str, Any]:
    sites = [{"site": one.site, "status": one.status, "reason": one.reason} for one in history.by_attempt[row.attempt]]
    return asdict(row) | {"asked": history.asked.get(row.attempt, ()), "sites": sites}


def _json(value: Any) -> bytes:
    return (json.dumps(value, ensure_ascii=False, allow_nan=False, indent=1, sort_keys=True) + "\n").encode()


def _line(value: Any) -> bytes:
    return (json.dumps(value, ensure_ascii=False, allow_nan=False, sort_keys=True) + "\n").encode()
