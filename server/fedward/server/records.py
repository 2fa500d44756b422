"""The rows of the coordinator's record, as the store gives them to readers: immutable, without any database type."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from fedward.server.lifecycle import Life, State, Wish

CredentialState = Literal["issued", "current", "replaced", "revoked"]


@dataclass(frozen=True)
class SiteRow:
    site: str
    identity_key: str
    node_key: str
    node_id: int | None
    revoked: bool = False


@dataclass(frozen=True)
class CredentialRow:
    """A site's certificate and the one node key that may speak over it.

    `fingerprint` is the SHA-256 of the certificate's DER, `tls_key` of its public key's. A certificate is `issued` until
    its site connects with it, then `current`; an older one is then `replaced`. Revoked ones stay so for ever.
    """

    fingerprint: str
    site: str
    identity_key: str
    node_key: str
    tls_key: str
    issued_at: int
    expires_at: int
    state: CredentialState = "issued"
    reason: str = ""
    changed_at: int = 0

    @property
    def lives(self) -> bool:
        """Whether the certificate may be used, its dates aside."""
        return self.state in {"issued", "current"}


@dataclass(frozen=True)
class Membership:
    """A site as the coordinator lists it: whose identity, until when its certificate holds, and whether it was revoked."""

    site: str
    identity_key: str
    state: Literal["enrolled", "rotating", "revoked"]
    expires_at: int | None
    reason: str = ""
    changed_at: int = 0


@dataclass(frozen=True)
class StudyRow:
    key: int
    study_id: str
    manifest: str
    invited: tuple[str, ...]
    sealed: bytes | None
    signature: bytes | None
    digest: str | None
    state: State
    reason: str
    wish: Wish
    created_at: int
    changed_at: int
    code: str | None = None
    """The name of the failure or exhaustion; None for any other state, and in records of earlier versions."""

    @property
    def life(self) -> Life:
        """Where it stands, for `lifecycle`."""
        return Life(self.state, self.wish, self.sealed is not None, self.reason, self.code)


@dataclass(frozen=True)
class AttemptRow:
    attempt: int
    round: int
    base: str
    outcome: str | None
    reason: str
    model: str | None
    opened_at: int
    seconds: float | None


@dataclass(frozen=True)
class Question:
    """An open round has its quorum and asks whether to wait for these sites: since when, and until when at most, unix time.
    `choice` is a person's answer, "wait" or "carry-on"; None yet."""

    round: int
    attempt: int
    sites: tuple[str, ...]
    at: int
    until: int
    choice: str | None = None


@dataclass(frozen=True)
class AlarmRow:
    """A site's ledger was seen to go backwards or to fork; the site is not asked until a person clears it."""

    site: str
    what: str
    at: int


@dataclass(frozen=True)
class StatusRow:
    """A site's part in an attempt. `seconds`: what its answer took, or how long a silent one was waited for; see `round`."""

    attempt: int
    site: str
    status: str
    reason: str
    seconds: float | None = None


@dataclass(frozen=True)
class StandingRow:
    site: str
    state: str
    reason: str
    at: int


@dataclass(frozen=True)
class Contribution:
    """In how many committed rounds of training a site took part."""

    site: str
    rounds: int


@dataclass(frozen=True)
class MetricRow:
    """One metric of a model version (rounds committed) on a slice; `value` is None where it is undefined."""

    version: int
    slice: str
    name: str
    value: float | None
    low: float | None
    high: float | None
    positives: int
    negatives: int


@dataclass(frozen=True)
class Evaluation:
    """The summed histogram of one model version, by which sites, and the metrics derived from it."""

    version: int
    counts: bytes
    sites: tuple[str, ...]
    metrics: tuple[MetricRow, ...]


@dataclass(frozen=True)
class SharedMetrics:
    """What a hospital gave of its own metrics: AUROC on its held-out patients, of a version of the study's model and of the model
    that it trained alone; None where suppressed or not given. `figures` are the bytes that it signed."""

    site: str
    version: int
    auroc: float | None
    alone: float | None
    figures: bytes = b""
    signature: str = ""
    at: int = 0

    @property
    def drop(self) -> float | None:
        """How far the study's model lies below the hospital's own; below 0 where it is better."""
        return (
            None if self.auroc is None or self.alone is None else round(self.alone - self.auroc, 9)
        )  # of two decimals


@dataclass(frozen=True)
class ReleaseRow:
    """A model that was released. `number` counts the releases of a study's id from 1, over all its versions.

    `statement` are the canonical bytes of a `study.releases.Statement`, and `signature` (hex) is the coordinator's over them. One
    that was rolled back has `withdrawn_at`, by whom and why; the newest of an id that was not is the one to use.
    """

    study_id: str
    number: int
    study: int
    model: str
    version: int
    statement: bytes
    signature: str
    released_at: int
    by: str
    withdrawn_at: int | None = None
    withdrawn_by: str | None = None
    withdrawn_why: str | None = None


def in_force(releases: Sequence[ReleaseRow]) -> ReleaseRow | None:
    """Of one study id's releases, oldest first, the one to use: the newest that was not rolled back."""
    return next((one for one in reversed(releases) if one.withdrawn_at is None), None)


ASKED: Final = "straggling"
ANSWERED: Final = "stragglers-decided"
"""Journal entries: a round asked whether to wait for its stragglers; a person answered."""

JUDGED: Final = "gates"
"""A journal entry: the last model was held against the gates."""

ANSWERS = 0
"""The version under which the one sum of an exploration's answers is stored."""


@dataclass(frozen=True)
class Checkpoint:
    """A committed model of a study, and the server optimiser's state beside it."""

    version: int
    model: str
    optimiser: bytes


@dataclass(frozen=True)
class LostModel:
    """A committed model whose file is not what it was; `why` is a clause."""

    version: int
    model: str
    why: str


@dataclass(frozen=True)
class JournalEntry:
    sequence: int
    at: int
    kind: str
    data: dict[str, Any]
