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

from fedward.cli.exploring import say_answers
from fedward.cli.output import JsonOption, note, print_json, say, table

if TYPE_CHECKING:
    from fedward.server.coordinator import Coordinator
    from fedward.server.views import StudyView
    from fedward.study.kinds import AnyManifest

app = typer.Typer(
    help=(
        "Coordinate a federation: make it, enroll hospitals, propose and launch studies, follow them.\n\n"
        "Order: init, start, enroll, propose, (hospitals approve), launch, status."
    ),
    no_args_is_help=True,
)
Home = Annotated[
    Path,
    typer.Option("--home", envvar="FEDWARD_COORDINATOR_HOME", help="The coordinator's folder: keys, store, models."),
]
DEFAULT_HOME = Path.home() / ".fedward" / "coordinator"
PROPOSE_S = 120.0
Reference = Annotated[str, typer.Argument(metavar="STUDY", help="A study's id, or the first digits of its digest.")]


@app.command()
def init(
    name: Annotated[str, typer.Argument(help="The federation's name, for people.")],
    host: Annotated[str, typer.Option(help="The name or address by which hospitals reach this machine.")] = "localhost",
    bind: Annotated[str, typer.Option(help="The address to listen on for hospitals.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="The one port that hospitals reach.")] = 9443,
    control_port: Annotated[
        int, typer.Option(min=1, max=65535, help="A loopback port for Flower's own control.")
    ] = 9444,
    home: Home = DEFAULT_HOME,
    as_json: bool = JsonOption,
) -> None:
    """Make a federation: its certificate authority, the coordinator's identity, an empty store."""
    from fedward.privacy.signing import fingerprint
    from fedward.server.home import CoordinatorHome

    made = CoordinatorHome.create(
        home, name=name, host=host, bind=bind, port=port, control_port=control_port, now=datetime.now(UTC)
    )
    public = fingerprint(made.identity().public)
    if as_json:
        print_json({"name": name, "home": str(home), "address": f"{host}:{port}", "fingerprint": public})
        return
    say(f'Federation "{name}" lives in {home}; hospitals will reach it at {host}:{port}.')
    say(f"The coordinator's fingerprint, to read to hospitals by telephone: {public}")
    say(f"Next: fedward coordinator start --home {home}")


@app.command()
def start(home: Home = DEFAULT_HOME) -> None:
    """Run the service until Ctrl-C or SIGTERM. Studies under way continue where they stopped."""
    from fedward.cli.lifeline import end_with_parent
    from fedward.server.home import CoordinatorHome
    from fedward.server.service import CoordinatorService

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    end_with_parent()
    CoordinatorService(CoordinatorHome.open(home), stop, note).run()
    note("the service has stopped; studies under way continue at the next start")


@app.command()
def enroll(
    request_file: Annotated[Path, typer.Argument(metavar="REQUEST", help="The site's request file.")],
    out: Annotated[Path | None, typer.Option("--out", help="Where to write the kit.")] = None,
    fingerprint_expected: Annotated[
        str | None,
        typer.Option("--fingerprint", help="The site's fingerprint as heard by telephone; refused if it differs."),
    ] = None,
    home: Home = DEFAULT_HOME,
    as_json: bool = JsonOption,
) -> None:
    """Enrol a hospital from its request, and write its signed kit."""
    from fedward.privacy.errors import IntegrityError
    from fedward.privacy.signing import fingerprint
    from fedward.study.enrolment import JoinRequest
    from fedward.study.files import read_model, write_atomic

    request = read_model(request_file, JoinRequest, "request")
    seen = fingerprint(request.identity_key)
    if fingerprint_expected is not None and fingerprint_expected.lower() != seen:
        raise IntegrityError(
            "the request comes from another key than you expected", expected=fingerprint_expected, got=seen
        )
    kit = _coordinator(home).enroll(request)
    path = out or request_file.with_name(f"{request.site}.kit.json")
    write_atomic(path, kit.model_dump_json(indent=1).encode())
    if as_json:
        print_json({"site": request.site, "kit": str(path), "fingerprint": seen})
        return
    say(f'Enrolled "{request.site}" with fingerprint {seen}.')
    if fingerprint_expected is None:
        say("Compare it with the hospital by telephone before you propose a study to it.")
    say(f"Send {path} back to the hospital. It holds no secret.")


@app.command()
def sites(home: Home = DEFAULT_HOME, as_json: bool = JsonOption) -> None:
    """List the enrolled hospitals."""
    from fedward.privacy.signing import fingerprint

    rows = [(row.site, fingerprint(row.identity_key)) for row in _coordinator(home).sites()]
    if as_json:
        print_json({"sites": [{"site": site, "fingerprint": print_} for site, print_ in rows]})
        return
    table("Enrolled hospitals", ("site", "fingerprint"), rows)


@app.command()
def propose(
    study_file: Annotated[Path, typer.Argument(metavar="STUDY.toml", help="The study's manifest.")],
    only: Annotated[str, typer.Option("--sites", help="Comma-separated sites; all enrolled ones by default.")] = "",
    home: Home = DEFAULT_HOME,
    as_json: bool = JsonOption,
) -> None:
    """Seal a study with the sites that take part, sign it, and offer it to them for approval."""
    from fedward.study.kinds import load

    view = _proposed(_coordinator(home), load(study_file), only, as_json=as_json)
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

    coordinator = _coordinator(home)
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
        say(f"Each hospital decides: fedward site review {(view.digest or '')[:12]}, then approve or reject.")
        say(f"When enough have approved it is answered: fedward coordinator answers {view.study_id}")
    if follow and view.answers is None:
        raise RefusalError(
            "the exploration was not answered", got=f"{view.state} {view.reason}".strip(), code="not-answered"
        )


@app.command()
def answers(study: Reference, home: Home = DEFAULT_HOME, as_json: bool = JsonOption) -> None:
    """Show the answers to an exploration, each number with its 95% interval."""
    from fedward.privacy.errors import InputError

    view = _coordinator(home).status(study)
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

    deadline = time.monotonic() + PROPOSE_S
    while time.monotonic() < deadline:
        view = next(v for v in coordinator.studies() if v.key == key)
        if view.state == "proposed":
            return view
        if view.state in {"failed", "stopped"}:
            raise RefusalError("the study could not be proposed", got=view.reason, code="not-proposed")
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
    """Start a proposed study, or continue one that failed or was stopped. It runs in the service."""
    coordinator = _coordinator(home)
    view = coordinator.launch(study)
    if follow:
        view = _follow(coordinator, view)
    if as_json:
        print_json(view.as_json())
        return
    if follow:
        _say_study(view)
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
    coordinator = _coordinator(home)
    if study is None:
        views = coordinator.studies()
        if as_json:
            alarms = [asdict(alarm) for alarm in coordinator.alarms()]
            studies = [view.as_json() for view in views]
            print_json({"serving": coordinator.serving(), "studies": studies, "alarms": alarms})
            return
        say("The service runs." if coordinator.serving() else "The service is stopped: `fedward coordinator start`.")
        rows = [(v.study_id, (v.digest or "-")[:12], v.state, f"{v.version}/{v.rounds}", v.reason[:60]) for v in views]
        for alarm in coordinator.alarms():
            at = f"{datetime.fromtimestamp(alarm.at, UTC):%Y-%m-%d %H:%M} UTC"
            say(f"ALARM {at}: {alarm.site}: {alarm.what}. It is not asked any more. Telephone the hospital; then: "
                f"fedward coordinator clear-alarm {alarm.site} --by NAME --reason …")  # fmt: skip
        table("Studies", ("study", "digest", "state", "rounds", "reason"), rows)
        return
    view = coordinator.status(study)
    if follow:
        view = _follow(coordinator, view)
    if as_json:
        print_json(view.as_json() | {"serving": coordinator.serving()})
        return
    if not coordinator.serving():
        say("The service is stopped: nothing moves until `fedward coordinator start`.")
    _say_study(view)


@app.command()
def stop(study: Reference, home: Home = DEFAULT_HOME, as_json: bool = JsonOption) -> None:
    """Stop a study. Committed rounds and models stay; `launch` continues it."""
    view = _coordinator(home).stop(study)
    if as_json:
        print_json(view.as_json())
        return
    say(f'"{view.title}": stop is {"done" if view.state == "stopped" else "asked for; its run ends within seconds"}.')


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
    _coordinator(home).clear_alarm(site, by, reason)
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

    made = _coordinator(home).transcript(study)
    if out.exists():
        raise UsageError(f"{out} exists already", remedy="give another --out")
    write_atomic(out, made.model_dump_json().encode())
    sums = sum(len(batch.sums) for batch in made.batches)
    if as_json:
        print_json({"file": str(out), "batches": len(made.batches), "sums": sums})
        return
    say(f"{out}: {sums} sums of {len(made.batches)} batches. Anyone can check it: fedward audit transcript {out}")


def _coordinator(home: Path) -> Coordinator:
    from fedward.server.coordinator import LocalCoordinator

    return LocalCoordinator(home)


def _follow(coordinator: Coordinator, view: StudyView) -> StudyView:
    seen = 0
    while True:
        view = next(v for v in coordinator.studies() if v.key == view.key)
        for attempt in view.attempts[seen:]:
            if attempt.outcome is None:
                break
            seen += 1
            note(f"round {attempt.round}, attempt {attempt.attempt}: {attempt.outcome} ({attempt.reason})")
        if view.state in {"completed", "failed", "stopped"} and view.wish == "none":
            return view
        if not coordinator.serving():
            note("the service is stopped: nothing moves until `fedward coordinator start`")
            return view
        time.sleep(0.5)


def _say_standings(view: StudyView) -> None:
    rows = [(row.site, row.state, row.reason) for row in view.standings]
    table("What the sites say", ("site", "standing", "reason"), rows)


def _say_study(view: StudyView) -> None:
    from fedward.cli.measured import print_measured
    from fedward.study.terms import all_others_words

    name = f"{view.study_id}, {(view.digest or 'not sealed')[:12]}"
    say(f'"{view.title}" ({name}): {view.state}, round {view.version} of {view.rounds}')
    if view.reason:
        say(f"  {view.reason}")
    _say_standings(view)
    by_attempt = {a.attempt: [s for s in view.statuses if s.attempt == a.attempt] for a in view.attempts}
    rows = []
    for attempt in view.attempts:
        done = [s.site for s in by_attempt[attempt.attempt] if s.status == "contributed"]
        others = [f"{s.site} {s.status}: {s.reason}" for s in by_attempt[attempt.attempt] if s.status != "contributed"]
        took = f"{attempt.seconds:.1f} s" if attempt.seconds is not None else "-"
        what = "test only" if attempt.round > view.rounds else str(attempt.round)
        rows.append(
            (what, str(attempt.attempt), attempt.outcome or "under way", took, ", ".join(done), "; ".join(others))
        )
    table("Rounds", ("round", "attempt", "outcome", "took", "contributed", "others"), rows)
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
    if view.epsilon is not None:
        say(f"Privacy: ε at most {view.epsilon:g} at δ = {view.delta:g}, every planned attempt used; {view.meaning}")
        if view.epsilon_all_others is not None:
            say(
                f"Privacy against {all_others_words()}: ε at most {view.epsilon_all_others:g} at δ = {view.delta:g}, per patient"
            )
    else:
        say("Privacy: this study trains WITHOUT differential privacy")
