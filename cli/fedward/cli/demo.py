"""`fedward demo`: four hospitals train one model on this machine, by the commands that a real federation uses."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from fedward.cli.output import JsonOption, note, print_json, say


def demo(
    rounds: Annotated[
        int | None, typer.Option(min=1, max=200, help="Training rounds; the study's own by default.")
    ] = None,
    epsilon: Annotated[
        float | None,
        typer.Option(help="ε per patient that the study may cost at δ = 1e-3; the study's own by default."),
    ] = None,
    no_dp: Annotated[
        bool, typer.Option("--no-dp", help="Train without differential privacy, to see what it costs.")
    ] = False,
    sites: Annotated[
        Path | None,
        typer.Option(
            "--sites",
            metavar="DIR",
            help="Use other data: a folder with study.toml and, for each hospital, NAME.csv and NAME.mapping.toml.",
        ),
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--folder", help="Where to keep everything; a new folder here by default.")
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the federation running after the tables, until Ctrl-C, to look around.")
    ] = False,
    as_json: bool = JsonOption,
) -> None:
    """Train one model over four real hospitals' data, on this machine, with patient-level differential privacy.

    One coordinator and four hospital nodes run as five processes on loopback, each with its own folder, keys and data
    (UCI Heart Disease: Cleveland, Hungarian, Switzerland, VA Long Beach; 920 patients, CC BY 4.0). They go through the
    same commands as a real federation: init, request, enroll, register, propose, review, approve, launch. Updates leave
    the hospitals masked, so that the coordinator learns their sum alone (secure aggregation). At the end it
    shows the federated model beside each hospital's own model and beside the pooled model that privacy forbids, results
    by sex and age band, the ε that each hospital spent, and who contributed. It ends by itself and keeps its folder.
    """
    from fedward.cli.demo_federation import ENDING, DemoFederation, demo_study
    from fedward.cli.demo_results import gather, show
    from fedward.privacy.errors import UsageError
    from fedward.study.heart import heart_folder

    if no_dp and epsilon is not None:
        raise UsageError("--no-dp and --epsilon exclude each other")
    source = sites or heart_folder()
    target = (folder or Path(f"fedward-demo-{datetime.now().astimezone():%Y%m%d-%H%M%S}")).resolve()
    if target.exists() and any(target.iterdir()):
        raise UsageError(f"{target} is not empty", remedy="give another --folder")
    study = demo_study(source, target, rounds=rounds, epsilon=epsilon, no_dp=no_dp)
    for number in ENDING:  # a closed terminal must not leave five processes behind
        signal.signal(number, signal.default_int_handler)
    began = time.monotonic()
    with DemoFederation(target, source, study, note) as federation:
        federation.set_up()
        ready = time.monotonic()
        view = federation.train(progress=not as_json)
        trained = time.monotonic()
        note("measuring each hospital's own model and the pooled one, from the demo's folders …")
        results = gather(federation, view)
        results["seconds"] = {
            "set_up": round(ready - began, 1),
            "federation": round(trained - ready, 1),
            "all": round(time.monotonic() - began, 1),
        }
        if as_json:
            print_json(results)
        else:
            show(results)
            _say_next(federation.folder, results["study"]["id"], secure=results["secure"] is not None)
        if keep:
            note("the federation keeps running; Ctrl-C ends it")
            federation.wait()


def _say_next(folder: Path, study: str, *, secure: bool) -> None:
    # From a clone, the command is not on the PATH: show what can be pasted.
    command = "fedward" if shutil.which("fedward") else os.path.relpath(sys.argv[0])
    say("\nLook further (everything of this run is kept):")
    say(f"  {command} coordinator status {study} --home {folder}/coordinator")
    if secure:
        say(f"  {command} coordinator transcript {study} --out transcript.json --home {folder}/coordinator")
        say(f"  {command} audit transcript transcript.json")
        say(f"  {command} site incidents --home {folder}/sites/NAME")
    say(f"  {command} site ledger --home {folder}/sites/NAME")
    say(f"  {command} site review --home {folder}/sites/NAME")
    say(f"  the model and every process's log: {folder}/coordinator/models, {folder}/logs")
