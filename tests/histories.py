"""Scripted histories of studies in the in-memory federation, each told by what went wrong in it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from federation import Federation, decide, heart_manifest
from observed import run

from fedward.privacy.errors import FedwardError
from fedward.server.histories import History
from fedward.server.lifecycle import Stop
from fedward.server.readings import history

ROUNDS = 3


class DiedError(BaseException):
    """The coordinator's process died here."""


def template(folder: Path) -> Federation:
    """A federation whose four sites approved a study of three rounds."""
    federation = Federation(folder)
    federation.ready(heart_manifest(training={"rounds": ROUNDS}, privacy={"spare_attempts": 4}))
    return federation


def told(federation: Federation) -> History:
    """What the record holds now."""
    return history(federation.store, federation.store.study(federation.key))


def lived(federation: Federation, heard: Callable[[str], None] | None = None) -> None:
    """One life of the coordinator's process, to whatever end."""
    with contextlib.suppress(FedwardError, DiedError):
        run(federation, heard=heard)


def after(attempt: int, act: Callable[[], object]) -> Callable[[str], None]:
    """Something that happens once, when an attempt has ended."""
    done: list[str] = []

    def hear(text: str) -> None:
        if text.startswith(f"attempt {attempt}: ") and not done:
            done.append(text)
            act()

    return hear


def completed(federation: Federation) -> None:
    """Nothing went wrong."""
    lived(federation)


def dropped_out(federation: Federation) -> None:
    """VA cannot be reached from round 2 on."""
    lived(federation, after(1, lambda: federation.transport.offline.add("va")))


def rejoined(federation: Federation) -> None:
    """VA cannot be reached in round 2, is back in round 3, and is away again for the test of the last model."""
    away, back = federation.transport.offline.add, federation.transport.offline.discard
    ears = [after(1, lambda: away("va")), after(2, lambda: back("va")), after(3, lambda: away("va"))]
    lived(federation, lambda text: [ear(text) for ear in ears] and None)


def refused(federation: Federation) -> None:
    """VA's policy changes, and its node refuses every round; Cleveland's approvers said no before."""
    decide(federation.sites["cleveland"], federation.sealed(), "refused", federation.clock.unix())
    policy = "[policy]\nmax_epsilon = 1.0\nrequire_secure_aggregation = false\nrequire_evaluation_noise = false"
    federation.sites["va"].policy_file.write_text(policy)
    lived(federation)


def quorum_missed(federation: Federation) -> None:
    """VA and Cleveland are away after round 1."""
    lived(federation, after(1, lambda: federation.transport.offline.update({"va", "cleveland"})))


def restarted(federation: Federation) -> None:
    """The coordinator's process dies in the middle of round 2, and a new one goes on."""
    send, died = federation.transport.send, list[str]()

    def dying(requests: object) -> None:
        if len(federation.store.attempts(federation.key)) == 2 and not died:
            died.append("once")
            raise DiedError
        send(requests)  # type: ignore[arg-type]

    federation.transport.send = dying  # type: ignore[method-assign]
    lived(federation)
    lived(federation)


def alarmed(federation: Federation) -> None:
    """VA's ledger went back after round 1, by the coordinator's own record."""

    def alarm() -> None:
        federation.store.raise_alarm("va", "its ledger went back from entry 9 to entry 4", federation.clock.unix())
        federation.transport.offline.add("va")  # as the witness of heads has it

    lived(federation, after(1, alarm))


def stopped(federation: Federation) -> None:
    """A person stops it after round 1."""
    lived(federation, after(1, lambda: federation.store.happened(federation.key, Stop(), federation.clock.unix())))
