"""`fedward coordinator gates | release | rollback | releases`: which models may be used, and who said so."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedward.cli.asking import confirm
from fedward.cli.coordinator_home import DEFAULT_HOME, Home, Reference, open_coordinator
from fedward.cli.output import JsonOption, note, print_json, say, table

if TYPE_CHECKING:
    from fedward.server.records import ReleaseRow
    from fedward.server.verdicts import Judgement, Verdict
    from fedward.study.releases import Override

Reason = Annotated[
    str,
    typer.Option("--reason", help="Why, in a line of 10 to 500 characters; it is signed, and everybody may read it."),
]


def gates(study: Reference, home: Home = DEFAULT_HOME, as_json: bool = JsonOption) -> None:
    """Hold a study's newest model against its manifest's gates. What cannot be evaluated does not hold.

    Exit code 0 if all hold, 4 if one does not: a script can ask.
    """
    from fedward.privacy.errors import RefusalError

    found = open_coordinator(home).gates(study)
    if as_json:
        print_json(_judgement(found))
    else:
        _say_gates(found)
    if found.missed:
        raise typer.Exit(RefusalError.exit_code)


def share(
    study: Reference,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="What a hospital wrote with `fedward site metrics DIGEST --release`.")
    ],
    home: Home = DEFAULT_HOME,
    as_json: bool = JsonOption,
) -> None:
    """Take in what a hospital gave of its own metrics: signed by it, of this study, and no ε covers them."""
    from fedward.privacy.errors import InputError

    try:
        data = file.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {file}", got=error.strerror, remedy="give the hospital's file") from None
    made = open_coordinator(home).share(study, data)
    if as_json:
        print_json(
            {"site": made.site, "version": made.version, "auroc": made.auroc, "alone": made.alone, "drop": made.drop}
        )
        return
    said = "suppressed" if made.auroc is None else f"{made.auroc:g}"
    own = "" if made.alone is None else f", and {made.alone:g} of the model that it trained alone"
    say(f"{made.site}, of the model after round {made.version}: AUROC {said} on its own held-out patients{own}.")


def release(
    study: Reference,
    reason: Reason = "",
    override: Annotated[
        bool, typer.Option("--override", help="Release it although a gate is missed: two persons sign, and say why.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Sign an override without being asked.")] = False,
    home: Home = DEFAULT_HOME,
    as_json: bool = JsonOption,
) -> None:
    """Release a study's newest model: it held every gate, and may be used. Signed, numbered, and in the audit log."""
    coordinator = open_coordinator(home)
    signed = None
    if override:
        asked = coordinator.override(study, reason)
        if not yes:
            _say_override(asked)
            confirm("Sign this?")
        signed = coordinator.sign(asked)
    made = coordinator.release(study, reason, signed)
    if as_json:
        print_json(_row(made))
        return
    say(
        f"Release {made.number} of {made.study_id}: the model {made.model[:12]}, after round {made.version}. It is in force now."
    )
    say(f"To hand it on: fedward coordinator releases {made.study_id} --save FILE, and `export` for the model itself.")


def rollback(
    study_id: Annotated[str, typer.Argument(metavar="STUDY", help="The study's id.")],
    reason: Reason = "",
    home: Home = DEFAULT_HOME,
    as_json: bool = JsonOption,
) -> None:
    """Take the release in force back, and restore the one before it. It stays listed, with the reason."""
    ended, current = open_coordinator(home).rollback(study_id, reason)
    if as_json:
        print_json({"ended": _row(ended), "current": None if current is None else _row(current)})
        return
    say(f"Release {ended.number} of {study_id} is taken back: {ended.withdrawn_why}")
    if current is None:
        note(f"no earlier release of {study_id} is there: none of its models is to be used now")
    else:
        say(f"In force again: release {current.number}, the model {current.model[:12]}.")


def releases(
    study_id: Annotated[
        str | None, typer.Argument(metavar="[STUDY]", help="A study's id; all of them by default.")
    ] = None,
    save: Annotated[
        Path | None,
        typer.Option("--save", metavar="FILE", help="Write the signed statement of the one in force to a new file."),
    ] = None,
    home: Home = DEFAULT_HOME,
    as_json: bool = JsonOption,
) -> None:
    """List releases: which model, by whom and why, and which is in force. Every signature is checked."""
    found = open_coordinator(home).releases(study_id)
    rows = [_row(one) for one in found]
    if save is not None:
        _save(found, study_id, save)
    if as_json:
        print_json({"releases": rows} | ({"saved": str(save)} if save else {}))
        return
    if not rows:
        say("Nothing is released. See: fedward coordinator gates STUDY, and release STUDY")
        return
    cells = [_cells(one) for one in rows]
    table("Releases", ("study", "no.", "model", "rounds", "released (UTC)", "by", "state"), cells)
    for one in rows:
        say(f"{one['study_id']} {one['number']}: {one['reason']}")
        if one["overridden"]:
            say(f"  gates missed, and overridden by {' and '.join(one['signed_by'])}: {'; '.join(one['overridden'])}")
        if one["withdrawn_why"]:
            say(f"  taken back by {one['withdrawn_by']}: {one['withdrawn_why']}")
    if save is not None:
        say(f"Wrote {save}. Anyone can check it: fedward audit release {save}")


def _save(found: list[ReleaseRow], study_id: str | None, out: Path) -> None:
    from fedward.privacy.canonical import canonical_json
    from fedward.privacy.errors import UsageError
    from fedward.server.records import in_force
    from fedward.study.files import write_new
    from fedward.study.releases import ReleaseFile

    current = in_force(found) if study_id is not None else None
    if current is None:
        raise UsageError(
            "there is no release to save", expected="a study's id of which a release is in force",
            remedy="name it: fedward coordinator releases STUDY --save FILE",
        )  # fmt: skip
    made = ReleaseFile(statement=current.statement.decode(), signature=current.signature)
    write_new(out, canonical_json(made.model_dump(mode="json")))


def _row(one: ReleaseRow) -> dict[str, Any]:
    """A release for scripts, its signature checked."""
    from fedward.study.releases import check_release

    said = check_release(one.statement, one.signature)
    return {
        "study_id": one.study_id, "number": one.number, "study": said.study, "model": one.model, "version": one.version,
        "released_at": one.released_at, "by": one.by, "other": said.other, "reason": said.reason,
        "gates": [gate.model_dump() for gate in said.gates],
        "overridden": [gate.why for gate in said.override.missed] if said.override else [],
        "signed_by": [signed.by for signed in said.signatures],
        "withdrawn_at": one.withdrawn_at, "withdrawn_by": one.withdrawn_by, "withdrawn_why": one.withdrawn_why,
        "statement": one.statement.decode(), "signature": one.signature,
    }  # fmt: skip


def _cells(one: dict[str, Any]) -> tuple[str, ...]:
    at = _when(one["released_at"])
    return (one["study_id"], str(one["number"]), one["model"][:12], str(one["version"]), at, _who(one), _state(one))


def _who(one: dict[str, Any]) -> str:
    return one["by"] if one["other"] is None else f"{one['by']} and {one['other']}"


def _state(one: dict[str, Any]) -> str:
    return "taken back" if one["withdrawn_at"] is not None else "overridden" if one["overridden"] else "held every gate"


def _when(at: int) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M}"


def _judgement(found: Judgement) -> dict[str, Any]:
    waits = found.waiting
    return {
        "study_id": found.study_id,
        "ended": found.ended,
        "holds": not found.missed,
        "gates": [one.as_json() for one in found.verdicts],
        "override": None
        if waits is None or waits.override is None
        else {"reference": waits.reference, "by": waits.by, "reason": waits.override.reason},
    }


def _say_gates(found: Judgement) -> None:
    from fedward.server.verdicts import WORDS

    if not found.verdicts:
        say("An exploration trains no model, so it has no gates.")
        return
    cells = [(WORDS[one.gate], _limit(one), _value(one), _held(one)) for one in found.verdicts]
    table(f"Gates of {found.study_id}", ("gate", "must be", "is (95%)", "holds"), cells)
    for why in found.missed:
        say(f"  missed: {why}")
    if not found.ended:
        say("The study has not ended: this is how its newest model stands now.")
    elif found.missed:
        say("The model is kept, and is no release. Two persons can override: `release --override --reason …`")
    else:
        say(f"Every gate holds: fedward coordinator release {found.study_id} --reason …")
    if found.waiting is not None and found.waiting.override is not None:
        say(f"{found.waiting.by} has signed an override ({found.waiting.reference}): {found.waiting.override.reason}")


def _limit(one: Verdict) -> str:
    return "as [release] asks" if one.limit is None else f"at {one.side} {one.limit:g}"


def _value(one: Verdict) -> str:
    if one.limit is None:
        return f"{one.value:g} sites" if one.value is not None else "not known"
    if one.value is None:
        return "not known"
    interval = f" ({one.low:.3f} to {one.high:.3f})" if one.low is not None and one.high is not None else ""
    return f"{one.value:.3f}{interval}{f', {one.of}' if one.of else ''}"


def _held(one: Verdict) -> str:
    return "yes" if one.holds else "NO" if one.known else "NO: not known"


def _say_override(asked: Override) -> None:
    say(
        f"You are about to sign, for the model {asked.model[:12]} of study {asked.study[:12]}, after round {asked.version}:"
    )
    for one in asked.missed:
        say(f"  a gate it missed: {one.why}")
    say(f"  why it shall be released all the same: {asked.reason}")
