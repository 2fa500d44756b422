"""`fedward site ledger`, `fedward site ledger-recover` and `fedward audit ledger`: what studies cost a hospital's patients."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedward.cli.asking import confirm
from fedward.cli.output import JsonOption, print_json, say, shown, shown_left, table
from fedward.cli.site_home import DEFAULT_HOME, Home

if TYPE_CHECKING:
    from fedward.client.home import SiteHome
    from fedward.privacy.chain import Chain, Entry, Head
    from fedward.privacy.events import Event
    from fedward.privacy.ledger import Ledger

HeadOption = Annotated[
    str | None,
    typer.Option(
        "--head", metavar="SEQUENCE:DIGEST", help="A head that you know from elsewhere; the ledger must hold it."
    ),
]


def ledger(
    home: Home = DEFAULT_HOME,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify", help="Only check it: every entry, the head file, the countersigned head; exit 5 if not."
        ),
    ] = False,
    export: Annotated[
        Path | None, typer.Option("--export", metavar="FILE", help="Write it whole to a file, signed by this site.")
    ] = None,
    head: HeadOption = None,
    every: Annotated[
        bool, typer.Option("--all", help="Every entry on a row of its own; equal charges in a row are one row else.")
    ] = False,
    as_json: bool = JsonOption,
) -> None:
    """Print what studies have cost this hospital's patients, what is reserved, and what remains. The chain is verified first."""
    from fedward.client.home import SiteHome

    opened = SiteHome.open(home)
    with opened.ledger() as book:
        if verify or head is not None:
            _verify(opened, book, head, as_json=as_json and export is None)
        if export is not None:
            _export(opened, export, as_json=as_json)
        elif not verify and head is None:
            _show(opened, book, every=every, as_json=as_json)


def _verify(home: SiteHome, book: Ledger, head: str | None, *, as_json: bool) -> None:
    from fedward.privacy.ledgerexport import parse_head

    witness = home.countersigned_head()
    found = book.verify(witness)
    if head is not None:
        found = book.verify(parse_head(head))
    if as_json:
        print_json(
            {"holds": True, "entries": len(book.entries()), "head": _head_text(found),
             "countersigned": None if witness is None else _head_text(witness)}
        )  # fmt: skip
        return
    say(
        f"The ledger holds: {len(book.entries())} entries, each follows the one before; its head is {_head_text(found)}"
    )
    if witness is None:
        say("No head was countersigned yet: give a head that somebody else has kept with --head SEQUENCE:DIGEST.")
    else:
        say(f"It holds the head that the coordinator countersigned, entry {witness.sequence}.")


def _export(home: SiteHome, out: Path, *, as_json: bool) -> None:
    from fedward.client.ledgers import export_ledger
    from fedward.privacy.signing import fingerprint

    head, key = export_ledger(home, out, int(time.time())), home.identity().public
    if as_json:
        print_json({"out": str(out), "head": _head_text(head), "key": key})
        return
    say(
        f"Wrote the whole ledger to {out}, signed by this site (fingerprint {fingerprint(key)}). It holds no patient's data."
    )
    say(f"Its head is {_head_text(head)}")
    say(f"Anybody can check it: fedward audit ledger {out} --key {key}")


def _show(home: SiteHome, book: Ledger, *, every: bool, as_json: bool) -> None:
    from fedward.client.budgets import against_all_others
    from fedward.client.policy import load_policy
    from fedward.privacy.errors import InputError
    from fedward.study.terms import all_others_words

    now = int(time.time())
    try:
        period = load_policy(home.policy_file).period
    except InputError:  # what was spent does not depend on it
        period = None
    data = _summary(book.chain, now) | {"privacy": meaning(book.chain)}
    others = against_all_others(book)
    if others is not None:
        data["if_all_others_collude"] = {"spent": others[0], "held": others[1]}
    if period is not None:
        data["period"] = asdict(period) | {"spent": book.spent_in(period, at=now)}
    if as_json:
        print_json(data)
        return
    rows = [[entry] for entry in book.entries()] if every else _runs(book.entries())
    columns = ("entry", "day (UTC)", "study", "what", "noise σ", "q x steps")
    table("Privacy ledger", columns, [row for run in rows for row in _rows(run)],
          caption="σ: in units of the clipping norm. Noise on counts: its deviation, and coordinates x times.")  # fmt: skip
    _say_summary(data)
    if period is not None:
        say(
            f"In {period.days} days: ε = {shown(data['period']['spent'])} of {period.epsilon:g}, all that is reserved included; "
            "the lifetime's budget never resets"
        )
    say(f"What it means: {data['privacy']}")
    if others is not None:
        say(f"Against {all_others_words()}: ε = {shown(others[0])} spent, {shown(others[1])} with all that is reserved")


def meaning(chain: Chain) -> str:
    """What the ledger's ε means, against whom, and whose privacy it speaks of."""
    from fedward.privacy.entries import Charge, Reservation
    from fedward.privacy.events import SharedEvent
    from fedward.study.terms import EVERYONE, PRIVACY_WORDS

    words, parts = PRIVACY_WORDS, [entry.what for entry in chain.entries]
    charges = [part for part in parts if isinstance(part, Charge)]
    held = [event for part in parts if isinstance(part, Reservation) for event in part.events]
    if any(isinstance(event, SharedEvent) for event in (*held, *(charge.event for charge in charges))):
        pooled = "where noise is shared, the coordinator and outsiders with the colluders that each study names"
        words = words.replace(f"adversary: {EVERYONE}", f"adversary: {EVERYONE}, or, {pooled}")
    if any(charge.event is None and charge.purpose != "train-without-dp" for charge in charges):
        return f"{words}; covers training patients only (counts of held-out patients left without noise)"
    return f"{words}; covers every patient of this hospital"


def _summary(chain: Chain, at: int) -> dict[str, Any]:
    """What a chain amounts to, as JSON data."""
    from fedward.privacy.accounting import epsilon
    from fedward.privacy.entries import Charge, body_of
    from fedward.privacy.shares import left

    shares, budget = chain.shares, chain.budget
    spent, committed = (epsilon(h, budget.delta) for h in (shares.charged(), shares.committed(at)))
    if shares.written_off:
        spent, committed = max(spent, budget.epsilon), max(committed, budget.epsilon)
    alone = epsilon(shares.charged(), budget.delta, "everyone")  # more than `spent` only where noise was shared
    charges = [entry for entry in chain.entries if isinstance(entry.what, Charge)]
    return {
        "budget": {"epsilon": budget.epsilon, "delta": budget.delta},
        "spent": spent,
        "spent_against_everyone": max(spent, alone),
        "committed": committed,
        "remaining": left(budget.epsilon, committed),
        "written_off": shares.written_off,
        "unprotected": sum(entry.charge.event is None for entry in charges),
        "studies": [asdict(study) for study in shares.spending(budget.delta)],
        "reservations": [
            {"study_id": held.reservation.study_id, "study_digest": held.reservation.study_digest,
             "expires_at": held.reservation.expires_at, "cohort": held.reservation.cohort,
             "remaining": [asdict(event) for event in held.remaining]}
            for held in shares.open(at)
        ],
        "charges": [{"sequence": e.sequence, "at": e.at, "digest": e.digest} | asdict(e.charge) for e in charges],
        "entries": [{"sequence": e.sequence, "at": e.at, "digest": e.digest, "kind": e.what.KIND} | body_of(e.what)
                    for e in chain.entries],
        "head": _head_text(chain.tail),
    }  # fmt: skip


def _say_summary(data: dict[str, Any]) -> None:
    budget = data["budget"]
    for study in data["studies"]:
        reserved = f", {shown(study['reserved'])} more by itself is reserved" if study["reserved"] else ""
        say(f"{study['study_id']}: ε = {shown(study['epsilon'])} by itself, {study['charges']} charges{reserved}")
    say(
        f"Spent in all: ε = {shown(data['spent'])} of {budget['epsilon']:g}; with all that is reserved {shown(data['committed'])}; "
        f"remaining {shown_left(data['remaining'])}; δ = {budget['delta']:g}"
    )
    if data["spent_against_everyone"] > data["spent"]:
        say(
            f"Some noise was shared: against the coordinator with all other hospitals together, spent are "
            f"ε = {shown(data['spent_against_everyone'])}"
        )
    for entry in data["entries"]:
        if entry["kind"] == "recovery":
            say(f"Entry {entry['sequence']}: recovered by {entry['by']}, lost: {entry['lost']} ({entry['reason']})")
    if data["written_off"]:
        say("The whole budget was written off in a recovery: no study is admitted any more.")
    trained = sum(charge["purpose"] == "train-without-dp" for charge in data["charges"])
    if trained:
        say(f"{trained} attempts trained without differential privacy: for them no ε bounds anything.")
    if data["unprotected"] > trained:
        times = data["unprotected"] - trained
        say(f"{times} times counts of held-out patients left without noise: ε does not cover them.")


def _runs(entries: Sequence[Entry]) -> list[list[Entry]]:
    """Entries one after the other that charge one study the same mechanism for the same purpose, together; others alone."""
    from fedward.privacy.entries import Charge

    def same(entry: Entry) -> object:
        what = entry.what
        return (what.study_digest, what.purpose, what.event) if isinstance(what, Charge) else entry.sequence

    return [list(run) for _, run in groupby(entries, same)]


def _rows(run: list[Entry]) -> list[tuple[str, ...]]:
    """The rows of a run: one, but for a reservation, each of whose mechanisms has its own."""
    from fedward.privacy.entries import Reservation

    what, row = run[0].what, _row(run)
    if not isinstance(what, Reservation):
        return [row]
    start = row[:-2]
    return [(*(("",) * len(start) if index else start), *_mechanism(event)) for index, event in enumerate(what.events)]


def _row(run: list[Entry]) -> tuple[str, ...]:
    from fedward.privacy.entries import Charge, Recovery, Release, Reservation

    first, last = run[0], run[-1]
    what = first.what
    start = (_span(first.sequence, last.sequence), f"{datetime.fromtimestamp(first.at, UTC):%Y-%m-%d}")
    if isinstance(what, Charge) and isinstance(last.what, Charge):
        purpose = what.purpose.removesuffix("-without-dp")
        rounds = f"{purpose}, round {_span(what.round, last.what.round)}"
        return (*start, what.study_id, rounds, *_mechanism(what.event, len(run)))
    if isinstance(what, Reservation):
        return (*start, what.study_id, f"reserved for cohort {what.cohort[:8]}", "-", "-")
    if isinstance(what, Release):
        return (*start, what.study_id, f"given free: {what.reason}", "-", "-")
    if isinstance(what, Recovery):
        return (*start, "-", f"recovery by {what.by}, lost: {what.lost}", "-", "-")
    return (*start, "-", what.KIND, "-", "-")


def _span(first: int, last: int) -> str:
    return f"{first}" if first == last else f"{first}-{last}"


def _mechanism(event: Event | None, times: int = 1) -> tuple[str, str]:
    """Noise and repetitions of an event that was charged so many times, as the table shows them."""
    from fedward.privacy.events import DpEvent, SharedEvent

    if event is None:
        return "none", "-"
    if isinstance(event, SharedEvent):
        return f"{event.noise_multiplier:g} of {event.sites} sites", f"1 x {event.steps * times}"
    if isinstance(event, DpEvent):
        return f"{event.noise_multiplier:g}", f"{event.sampling_rate:g} x {event.steps * times}"
    return f"{event.deviation:g} a count", f"{event.coordinates} x {event.steps * times}"


def _head_text(head: Head) -> str:
    return f"{head.sequence}:{head.digest}"


def recover(
    by: Annotated[str, typer.Option("--by", help="Who decides; stands in the ledger for ever.")],
    reason: Annotated[str, typer.Option("--reason", help="Why; stands in the ledger for ever. No patient's data.")],
    home: Home = DEFAULT_HOME,
    copy: Annotated[
        Path | None,
        typer.Option(
            "--from", metavar="FILE", help="An export, or a copy of ledger.sqlite; without it, what lies there."
        ),
    ] = None,
    head: HeadOption = None,
    none_approved: Annotated[
        bool,
        typer.Option(
            "--none-approved",
            help="You answer for it that no study was approved here since the copy: all that it reserves counts as spent.",
        ),
    ] = False,
    write_off: Annotated[
        bool,
        typer.Option("--write-off", help="Nobody knows what was lost: the whole budget counts as spent, for good."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    as_json: bool = JsonOption,
) -> None:
    """Put a ledger back that was lost, damaged or rolled back. What may have been lost counts as spent.

    Stop the node first. Where the head file shows that nothing is missing from the copy, nothing more counts; otherwise say which
    of --none-approved and --write-off is true. What lies there now is kept beside the new file.
    """
    from fedward.client.home import SiteHome
    from fedward.client.ledgers import Statement, recover_ledger
    from fedward.privacy.errors import UsageError
    from fedward.privacy.ledgerexport import parse_head

    if none_approved and write_off:
        raise UsageError(
            "--none-approved and --write-off exclude each other", remedy="say --write-off if you do not know"
        )
    statement: Statement | None = "write-off" if write_off else "none-approved" if none_approved else None
    if write_off and not yes and not as_json:
        confirm("Write the whole privacy budget off? No study will ever be admitted here again.")
    done = recover_ledger(
        SiteHome.open(home), by=by, reason=reason, at=int(time.time()), copy=copy,
        head=None if head is None else parse_head(head), statement=statement,
    )  # fmt: skip
    if as_json:
        print_json({"recovered": True, "entries": done.entries, "lost": done.lost,
                    "head": f"{done.entry.sequence}:{done.entry.digest}"})  # fmt: skip
        return
    counted = {
        "nothing": "nothing was missing, and nothing more counts as spent",
        "charges": "everything that was reserved counts as spent; running studies need a new approval",
        "anything": "the whole budget counts as spent; no study is admitted any more",
    }[done.lost]
    say(f"Recovered with {done.entries} entries: {counted}. Entry {done.entry.sequence} says so, in the name of {by}.")
    say("See it: fedward site ledger. Export it now, and keep the export elsewhere: fedward site ledger --export FILE")


def audit(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file of `fedward site ledger --export`.")],
    key: Annotated[
        str | None, typer.Option("--key", metavar="HEX", help="The site's public key, as you know it from the roster.")
    ] = None,
    head: HeadOption = None,
    as_json: bool = JsonOption,
) -> None:
    """Check a ledger's export: its signature, every entry of the chain, and the ε that follows. It needs no site.

    It shows that the file is whole and by the site's key, not that the site gave its newest one: compare the head with one that
    was countersigned.
    """
    from fedward.privacy.errors import InputError
    from fedward.privacy.ledgerexport import parse_head, read_export
    from fedward.privacy.signing import fingerprint

    try:
        data = file.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {file}", got=error.strerror or type(error).__name__) from None
    export = read_export(data, key)
    if head is not None:
        export.chain.check_witness(parse_head(head), "was given")
    summary = _summary(export.chain, export.at)
    if as_json:
        print_json({"holds": True, "site": export.site, "key": export.key, "key_compared": key is not None, "at": export.at,
                    "privacy": meaning(export.chain)} | summary)  # fmt: skip
        return
    at = f"{datetime.fromtimestamp(export.at, UTC):%Y-%m-%d %H:%M:%S}"
    say(
        f'The ledger of site "{export.site}" holds as it was at {at} UTC: {len(export.chain.entries)} entries, '
        f"head {summary['head']}"
    )
    say(
        f"Signed by the key with the fingerprint {fingerprint(export.key)}"
        + ("" if key else "; compare it, or give --key")
    )
    _say_summary(summary)
    say(f"What it means: {meaning(export.chain)}")
