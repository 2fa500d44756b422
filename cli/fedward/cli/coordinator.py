"""`fedward coordinator …`: what a coordinator does. Everything goes through the `Coordinator` interface."""

from __future__ import annotations

import signal
import threading
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedward.cli import (
    coordinator_backup,
    coordinator_card,
    coordinator_clone,
    coordinator_compare,
    coordinator_explain,
    coordinator_export,
    coordinator_extend,
    coordinator_influence,
    coordinator_life,
    coordinator_mitigation,
    coordinator_operators,
    coordinator_persons,
    coordinator_releases,
    coordinator_sites,
    coordinator_store,
    coordinator_stragglers,
    service,
)
from fedward.cli.coordinator_home import DEFAULT_HOME, Home, Reference, open_coordinator
from fedward.cli.exploring import say_answers
from fedward.cli.output import JsonOption, counted, note, print_json, say, table

if TYPE_CHECKING:
    from fedward.server.coordinator import Coordinator
    from fedward.server.records import StatusRow
    from fedward.server.views import StudyHead, StudyView
    from fedward.study.kinds import AnyManifest

app = typer.Typer(
    help=(
        "Coordinate a federation: make it, enroll hospitals, propose and launch studies, follow them.\n\n"
        "Order: init, start, enroll, propose, (hospitals approve), launch, status."
    ),
    no_args_is_help=True,
)
app.command("service")(service.coordinator)
app.add_typer(coordinator_operators.app, name="operator")
PROPOSE_S = 120.0
ATTEMPTS_SHOWN = 20


@app.command()
def init(
    name: Annotated[str, typer.Argument(help="The federation's name, for people.")],
    host: Annotated[str, typer.Option(help="The name or address by which hospitals reach this machine.")] = "localhost",
    bind: Annotated[str, typer.Option(help="The address to listen on for hospitals.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="The one port that hospitals reach.")] = 9443,
    control_port: Annotated[
        int, typer.Option(min=1, max=65535, help="A loopback port for Flower's own control.")
    ] = 9444,
    store: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Keep the record in PostgreSQL: postgresql+psycopg://USER@HOST/DATABASE. "
            "Its password comes from FEDWARD_STORE_PASSWORD or PGPASSFILE. A SQLite file in the home by default.",
        ),
    ] = None,
    operators_port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="A port for people who work from other machines; none by default."),
    ] = None,
    operators_bind: Annotated[
        str, typer.Option(help="The address to listen on for them; this machine alone by default.")
    ] = "127.0.0.1",
    home: Home = DEFAULT_HOME,
    as_json: bool = JsonOption,
) -> None:
    """Make a federation: its certificate authority, the coordinator's identity, an empty store."""
    from fedward.privacy.signing import fingerprint
    from fedward.server.home import CoordinatorHome
    from fedward.server.operators import Operators

    now = datetime.now(UTC)
    made = CoordinatorHome.create(
        home, name=name, host=host, bind=bind, port=port, control_port=control_port, now=now,
        operators_port=operators_port, operators_bind=operators_bind, store=store,
    )  # fmt: skip
    Operators(made).settle_local(now)
    public = fingerprint(made.identity().public)
    if as_json:
        print_json({"name": name, "home": str(home), "address": f"{host}:{port}", "fingerprint": public})
        return
    say(f'Federation "{name}" lives in {home}; hospitals will reach it at {host}:{port}.')
    if store is not None:
        say(f"Its record is in {store}.")
    say(f"The coordinator's fingerprint, to read to hospitals by telephone: {public}")
    say(f"Next: fedward coordinator start --home {home}")


@app.command()
def start(home: Home = DEFAULT_HOME) -> None:
    """Run the service until Ctrl-C or SIGTERM. Studies under way continue where they stopped."""
    from fedward.cli.lifeline import end_with_parent
    from fedward.server.home import CoordinatorHome
    from fedward.server.service import CoordinatorService

    stop = threading.Event()
    service = CoordinatorService(CoordinatorHome.open(home), stop, note)
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGTERM, signal.SIGINT)}
    end_with_parent()
    try:
        service.run()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    note("the service has stopped; studies under way continue at the next start")


app.command()(coordinator_sites.enroll)
app.command()(coordinator_sites.sites)
app.command()(coordinator_sites.revoke)
app.command()(coordinator_store.migrate)
app.command()(coordinator_backup.backup)
app.command()(coordinator_backup.restore)
app.command()(coordinator_operators.whoami)
app.command()(coordinator_releases.share)
app.command()(coordinator_releases.gates)
app.command()(coordinator_releases.release)
app.command()(coordinator_releases.rollback)
app.command()(coordinator_releases.releases)
app.command()(coordinator_persons.policy)
app.command()(coordinator_persons.requests)
app.command()(coordinator_persons.withdraw)


@app.command()
def propose(
    study_file: Annotated[Path, typer.Argument(metavar="STUDY.toml", help="The study's manifest.")],
    only: Annotated[str, typer.Option("--sites", help="Comma-separated sites; all enrolled ones by default.")] = "",
    home: Home = DEFAULT_HOME,
    as_json: bool = JsonOption,
) -> None:
    """Seal a study with the sites that take part, sign it, and offer it to them for approval."""
    from fedward.study.kinds import load

    view = _proposed(open_coordinator(home), load(study_file), only, as_json=as_json)
    if as_json:
        print_json(view.as_json())
        return
    say(f'Proposed "{view.title}": digest {view.digest}')
    _say_standings(view)
    if view.secure is not None:
        say(view.secure)
    say(f"Next, when enough hospitals have approved: fedward coordinator launch {view.study_id}")


@app.command()
def explore(
    study_file: Annotated[Path, typer.Argument(metavar="EXPLORE.toml", help="The exploration's manifest.")],
    only: Annotated[str, typer.Option("--sites", help="Comma-separated sites; all enrolled ones by default.")] = "",
    follow: Annotated[bool, typer.Option("--follow", help="Stay until it is answered, and show the answers.")] = False,
    home: Home = DEFAULT_HOME,
    as_json: bool = JsonOption,
) -> None:
    """Ask hospitals for statistics before a study: counts, histograms, means and quantiles, noised and summed.

    It is proposed and launched at once, and answered when enough hospitals have approved it. See `answers`.
    """
    from fedward.privacy.errors import RefusalError
    from fedward.study.exploration import load_exploration

    coordinator = open_coordinator(home)
    proposed = _proposed(coordinator, load_exploration(study_file), only, as_json=as_json)
    view = coordinator.launch(proposed.digest or proposed.study_id)
    if not as_json:
        say(f'Proposed and launched "{view.title}": digest {view.digest}')
        _say_standings(view)
    if follow:
        view = _follow(coordinator, view)
    if as_json:
        print_json(view.as_json())
    elif follow:
        say_answers(view)
    else:
        say(f"Each hospital decides: fedward site review {(view.digest or '')[:12]}, then approve or refuse.")
        say(f"When enough have approved it is answered: fedward coordinator answers {view.study_id}")
    if follow and view.answers is None:
        raise RefusalError(
            "the exploration was not answered", got=f"{view.state} {view.reason}".strip(), code="not-answered"
        )


@app.command()
def answers(study: Reference, home: Home = DEFAULT_HOME, as_json: bool = JsonOption) -> None:
    """Show the answers to an exploration, each number with its 95% interval."""
    from fedward.privacy.errors import InputError

    view = open_coordinator(home).status(study)
    if view.kind != "explore":
        raise InputError(f'study "{view.study_id}" is no exploration', remedy="see `fedward coordinator status`")
    if as_json:
        print_json(view.as_json())
        return
    say(f'"{view.title}" ({view.study_id}, {(view.digest or "not sealed")[:12]}): {view.state}')
    say_answers(view)


def _proposed(coordinator: Coordinator, manifest: AnyManifest, only: str, *, as_json: bool) -> StudyView:
    """The study once it is sealed and offered to these sites."""
    chosen = tuple(site.strip() for site in only.split(",") if site.strip())
    draft = coordinator.propose(manifest, chosen)
    if not as_json:
        note("asking the sites for their cohorts, calibrating the noise, sealing …")
    return _wait_sealed(coordinator, draft.key)


def _wait_sealed(coordinator: Coordinator, key: int) -> StudyView:
    from fedward.privacy.errors import RefusalError, UnreachableError
    from fedward.server.lifecycle import ENDED

    deadline = time.monotonic() + PROPOSE_S
    while time.monotonic() < deadline:
        head = next(v for v in coordinator.studies() if v.key == key)
        if head.state in {"proposed", "ready"}:
            return coordinator.status(head.digest or head.study_id)
        if head.state in ENDED:
            raise RefusalError("the study could not be proposed", got=head.reason, code="not-proposed")
        if not coordinator.serving():
            raise UnreachableError("the service stopped before the study was sealed", remedy="start it: it will go on")
        time.sleep(0.2)
    raise UnreachableError(
        f"the study was not sealed within {PROPOSE_S:g} s", remedy="see `fedward coordinator status`; it may still be"
    )


@app.command()
def launch(
    study: Reference,
    follow: Annotated[bool, typer.Option("--follow", help="Stay and show progress until the study ends.")] = False,
    home: Home = DEFAULT_HOME,
    as_json: bool = JsonOption,
) -> None:
    """Start a proposed study, or continue one that failed or was stopped. It runs in the service.

    It may be launched before enough hospitals have approved: it then begins as soon as they have. With --follow the exit code
    is 4 if it does not complete.
    """
    coordinator = open_coordinator(home)
    view = coordinator.launch(study)
    if follow:
        _show_followed(_follow(coordinator, view), as_json=as_json)
        return
    if as_json:
        print_json(view.as_json())
        return
    say(f'Launched "{view.title}" ({(view.digest or "")[:12]}): {view.rounds} rounds.')
    if view.secure is not None:
        say(view.secure)
    say(f"Follow it: fedward coordinator status {view.study_id} --follow")


@app.command()
def status(
    study: Annotated[str | None, typer.Argument(metavar="[STUDY]", help="A study; without it, list them all.")] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Stay and show progress until the study ends.")] = False,
    home: Home = DEFAULT_HOME,
    as_json: bool = JsonOption,
) -> None:
    """Show the service, the studies, or one study: rounds, every site's status and reason, metrics, ε."""
    coordinator = open_coordinator(home)
    if study is None:
        heads = coordinator.studies()
        if as_json:
            alarms = [asdict(alarm) for alarm in coordinator.alarms()]
            studies = [head.as_json() for head in heads]
            waiting = [one.model_dump() for one in coordinator.waiting()]
            print_json({"serving": coordinator.serving(), "studies": studies, "alarms": alarms, "waiting": waiting})
            return
        say("The service runs." if coordinator.serving() else "The service is stopped: `fedward coordinator start`.")
        rows = [
            (v.study_id, (v.digest or "-")[:12], _state(v), f"{v.version}/{v.rounds}", v.reason[:60]) for v in heads
        ]
        for alarm in coordinator.alarms():
            at = f"{datetime.fromtimestamp(alarm.at, UTC):%Y-%m-%d %H:%M} UTC"
            say(f"ALARM {at}: {alarm.site}: {alarm.what}. It is not asked any more. Telephone the hospital; then: "
                f"fedward coordinator clear-alarm {alarm.site} --by NAME --reason …")  # fmt: skip
        for one in coordinator.waiting():
            say(coordinator_persons.waits(one))
        if rows:
            table("Studies", ("study", "digest", "state", "rounds", "reason"), rows)
        else:
            say("No study yet: fedward coordinator propose STUDY.toml")
        return
    view = coordinator.status(study, None if as_json else ATTEMPTS_SHOWN)
    if follow:
        view = _follow(coordinator, view)
    if as_json:
        print_json(view.as_json() | {"serving": coordinator.serving()})
        return
    if not coordinator.serving():
        say("The service is stopped: nothing moves until `fedward coordinator start`.")
    for one in coordinator.waiting():
        if one.target == view.digest:
            say(coordinator_persons.waits(one))
    _say_study(view)


app.command()(coordinator_stragglers.wait)
app.command("carry-on")(coordinator_stragglers.carry_on)
app.command()(coordinator_life.pause)
app.command()(coordinator_life.resume)
app.command()(coordinator_life.stop)
app.command()(coordinator_explain.explain)
app.command()(coordinator_compare.compare)
app.command()(coordinator_clone.clone)
app.command()(coordinator_extend.extend)
app.command()(coordinator_export.export)
app.command()(coordinator_card.card)
app.command()(coordinator_influence.influence)
app.command()(coordinator_mitigation.mitigation)


@app.command("clear-alarm")
def clear_alarm(
    site: Annotated[str, typer.Argument(help="The site whose privacy ledger raised an alarm.")],
    by: Annotated[str, typer.Option("--by", help="Who looked into it.")],
    reason: Annotated[str, typer.Option("--reason", help="What they found; it is kept.")],
    home: Home = DEFAULT_HOME,
    as_json: bool = JsonOption,
) -> None:
    """Ask a site again after an alarm about its privacy ledger. Its next ledger head is taken as it comes."""
    from fedward.privacy.errors import UsageError

    if not by.strip() or not reason.strip():
        raise UsageError("an alarm is cleared by a named person who says why", expected="--by NAME --reason TEXT")
    open_coordinator(home).clear_alarm(site, by, reason)
    if as_json:
        print_json({"site": site, "by": by, "reason": reason})
        return
    say(f'The alarm about "{site}" is cleared by {by}. The site is asked again.')


@app.command()
def transcript(
    study: Reference,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where to write it; must not exist.")],
    home: Home = DEFAULT_HOME,
    as_json: bool = JsonOption,
) -> None:
    """Write the transcript of a study's secure sums, for anyone to check with `fedward audit transcript`."""
    from fedward.privacy.errors import UsageError
    from fedward.study.files import write_atomic

    made = open_coordinator(home).transcript(study)
    if out.exists():
        raise UsageError(f"{out} exists already", remedy="give another --out")
    write_atomic(out, made.model_dump_json().encode())
    sums = sum(len(batch.sums) for batch in made.batches)
    if as_json:
        print_json({"file": str(out), "batches": len(made.batches), "sums": sums})
        return
    batches = "1 batch" if len(made.batches) == 1 else f"{len(made.batches)} batches"
    say(f"{out}: {counted(sums, 'sum')} of {batches}. Anyone can check it: fedward audit transcript {out}")


def _follow(coordinator: Coordinator, view: StudyView) -> StudyView:
    """Tell of each attempt until the study rests or the service is gone; then all there is to know of the study."""
    from fedward.server.lifecycle import AT_REST

    seen = 0
    while True:
        view = coordinator.status(view.digest or view.study_id, ATTEMPTS_SHOWN)
        for attempt in view.attempts[seen:]:
            if attempt.outcome is None:
                break
            seen += 1
            note(f"round {attempt.round}, attempt {attempt.attempt}: {attempt.outcome} ({attempt.reason})")
        if view.state in AT_REST and view.wish == "none":
            break
        if not coordinator.serving():
            note("the service is stopped: nothing moves until `fedward coordinator start`")
            break
        time.sleep(0.5)
    return coordinator.status(view.digest or view.study_id)


def _show_followed(view: StudyView, *, as_json: bool) -> None:
    """How a launched study ended. The exit code is 4 where it did not complete: a script must not take that for success."""
    if as_json:
        print_json(view.as_json())
    else:
        _say_study(view)
    if view.state != "completed":
        raise typer.Exit(4)


def _say_standings(view: StudyView) -> None:
    rows = [(row.site, row.state, row.reason) for row in view.standings]
    table("What the sites say", ("site", "standing", "reason"), rows)


def _say_rounds(view: StudyView) -> None:
    """The newest attempts, each with its sites; how many there are before them."""
    shown = view.attempts[-ATTEMPTS_SHOWN:]
    by_attempt: dict[int, list[StatusRow]] = {attempt.attempt: [] for attempt in shown}
    for status in view.statuses:
        if status.attempt in by_attempt:
            by_attempt[status.attempt].append(status)
    rows = []
    for attempt in shown:
        done = [s.site for s in by_attempt[attempt.attempt] if s.status == "contributed"]
        others = [f"{s.site} {s.status}: {s.reason}" for s in by_attempt[attempt.attempt] if s.status != "contributed"]
        took = f"{attempt.seconds:.1f} s" if attempt.seconds is not None else "-"
        what = "test only" if attempt.round > view.rounds else str(attempt.round)
        rows.append(
            (what, str(attempt.attempt), attempt.outcome or "under way", took, ", ".join(done), "; ".join(others))
        )
    earlier = len(view.attempts) - len(shown)
    if earlier:
        committed = sum(attempt.outcome == "committed" for attempt in view.attempts[:earlier])
        say(f"{earlier} earlier attempts, {committed} of them committed: fedward coordinator explain {view.study_id}")
    if rows:
        table("Rounds", ("round", "attempt", "outcome", "took", "contributed", "others"), rows)


def _state(view: StudyHead | StudyView) -> str:
    """The state, and what is asked of it and not done yet."""
    coming = {"run": "launched", "pause": "pausing", "pause-now": "pausing", "stop": "stopping"}.get(view.wish, "")
    return view.state if not coming or (view.state, view.wish) == ("running", "run") else f"{view.state}, {coming}"


def _say_study(view: StudyView) -> None:
    from fedward.cli.measured import print_measured
    from fedward.study.terms import all_others_words

    name = f"{view.study_id}, {(view.digest or 'not sealed')[:12]}"
    say(f'"{view.title}" ({name}): {_state(view)}, round {view.version} of {view.rounds}')
    if view.reason:
        say(f"  {view.reason}")
        say(f"  What happened, and what to do: fedward coordinator explain {view.study_id}")
    lost = [str(attempt.round) for attempt in view.attempts if attempt.outcome == "lost"]
    if lost:
        say(f"ALARM: the model of round {', '.join(lost)} was lost after it was committed, and the study went back.")
        say(f"  What happened, and what to do: fedward coordinator explain {view.study_id}")
    coordinator_stragglers.say_questions(view)
    _say_standings(view)
    _say_rounds(view)
    if view.secure is not None:
        say(view.secure)
    if view.kind == "explore":
        say_answers(view)
        return
    newest = view.auroc()
    if newest is not None and newest.value is not None:
        say(f"AUROC on held-out patients after round {newest.version}: {newest.value:.3f} "
            f"(95% {newest.low:.3f} to {newest.high:.3f}; {newest.positives + newest.negatives} patients)")  # fmt: skip
    print_measured(view.measured())
    if view.version > 0 and view.not_releasable:
        say(f"The model may not become a release: {'; '.join(view.not_releasable)}.")
    if view.epsilon is not None:
        say(f"Privacy: ε at most {view.epsilon:g} at δ = {view.delta:g}, every planned attempt used; {view.meaning}")
        if view.epsilon_all_others is not None:
            say(
                f"Privacy against {all_others_words()}: ε at most {view.epsilon_all_others:g} at δ = {view.delta:g}, per patient"
            )
    else:
        say("Privacy: this study trains WITHOUT differential privacy")
