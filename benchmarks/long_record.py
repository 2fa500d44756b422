"""A coordinator's record with a long study in it, written through the store's own API: what commands that look have to read."""

from __future__ import annotations

import tomllib
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from benchmarks.fleet import free_ports
from fedward.privacy.canonical import digest
from fedward.privacy.signing import Identity
from fedward.server.evaluation import evaluate
from fedward.server.home import CoordinatorHome
from fedward.server.lifecycle import Began, Completed, Launch, Offered
from fedward.server.records import Checkpoint, Evaluation
from fedward.server.round import Outcome, SiteState, Status
from fedward.server.store import Store
from fedward.study.evaluation import count_deviation
from fedward.study.heart import heart_folder
from fedward.study.manifest import Manifest, RosterEntry, SealedManifest, parse
from fedward.study.metrics import histogram_shape
from fedward.study.schedule import least_noise
from fedward.study.terms import evaluates

AT = 1_900_000_000
PATIENTS = 200


def write_record(folder: Path, sites: int, rounds: int, bands: int | None = None) -> tuple[CoordinatorHome, str]:
    """A coordinator's home whose store holds a completed study of so many sites and rounds, and the study's digest.

    `bands`: of ages, each a fairness group beside the two of sex; left out, the study's own.
    """
    port, control = free_ports(2)
    home = CoordinatorHome.create(
        folder,
        name="record",
        host="localhost",
        bind="127.0.0.1",
        port=port,
        control_port=control,
        now=datetime.now(UTC),
    )
    names = tuple(f"site-{number:03d}" for number in range(sites))
    manifest = _manifest(rounds, bands)
    sealed = _sealed(home, manifest, names)
    store = home.open_store()
    try:
        key = store.create_study(manifest.study.id, manifest.model_dump_json(), names, AT)
        signature = home.identity().sign("manifest", sealed.canonical)
        store.seal(key, sealed.canonical, signature, sealed.digest, AT)
        for site in names:
            store.set_standing(key, site, "approved", "", b"signed", AT)
        for event in (Offered(), Launch(), Began()):
            store.happened(key, event, AT)
        store.start(key, Checkpoint(0, digest(b"0"), b""), AT)
        for round_ in range(1, rounds + 1):
            _write_round(store, key, manifest, names, round_)
        store.happened(key, Completed(f"{rounds} rounds committed"), AT + rounds)
    finally:
        store.close()
    return home, sealed.digest


def _manifest(rounds: int, bands: int | None) -> Manifest:
    data = tomllib.loads((heart_folder() / "study.toml").read_text(encoding="utf-8"))
    data["training"]["rounds"] = rounds
    data["evaluation"] = {"noise": "none", "every": 10}
    if bands is not None:
        cut = [round(120 * number / bands) for number in range(bands + 1)]
        data["fairness"] = {"groups": [{"column": "sex"}, {"column": "age", "cut": cut}]}
    return parse(data)


def _sealed(home: CoordinatorHome, manifest: Manifest, names: tuple[str, ...]) -> SealedManifest:
    noise = least_noise(manifest)
    roster = tuple(
        RosterEntry(
            site=site, identity_key=Identity.generate().public, declared_patients=PATIENTS, noise_multiplier=noise
        )
        for site in names
    )
    return SealedManifest(
        manifest=manifest, count_deviation=count_deviation(manifest), federation_id=home.settings.federation_id,
        coordinator_key=home.identity().public, roster=roster, sealed_at=AT, expires_at=AT + 86_400,
    )  # fmt: skip


def _write_round(store: Store, key: int, manifest: Manifest, names: tuple[str, ...], round_: int) -> None:
    """One committed round as a run writes it; every tenth without its first site."""
    out = 1 if round_ % 10 == 0 else 0
    sites = {site: SiteState(Status.CONTRIBUTED, at=float(round_)) for site in names}
    if out:
        sites[names[0]] = SiteState(Status.DROPPED, "no answer: deadline passed", float(round_))
    base = digest(str(round_ - 1).encode())
    store.open_attempt(key, round_, round_, base, names, AT + round_)
    survivors = list(names[out:])
    store.note(key, "unmasking", {"attempt": round_, "base": base, "survivors": survivors}, AT + round_)
    store.close_attempt(
        key, round_, Outcome.COMMITTED, f"{len(names) - out} of {len(names)} sites contributed", sites, 0.5, AT + round_,
        commit=Checkpoint(round_, digest(str(round_).encode()), b""),
        evaluation=_evaluation(manifest, round_, names[out:]) if evaluates(manifest, round_) else None,
    )  # fmt: skip


def _evaluation(manifest: Manifest, round_: int, sites: tuple[str, ...]) -> Evaluation:
    rng = np.random.default_rng(round_)
    drawn = rng.integers(0, 20, histogram_shape(manifest)).astype(np.int64)
    drawn[0] = drawn[3:].sum(axis=0)  # everybody is in one band of age, and is a woman or a man
    drawn[1] = rng.binomial(drawn[0], 0.5)
    drawn[2] = drawn[0] - drawn[1]
    return evaluate(manifest, round_ - 1, sites, drawn, count_deviation(manifest))
