"""`fedward privacy …`: what an ε is worth, measured."""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedward.cli.output import JsonOption, note, print_json, say, table

if TYPE_CHECKING:
    from fedward.simulations.probe import Design, Finding, Mechanism

app = typer.Typer(help="Put a privacy claim to the test.", no_args_is_help=True)

REFUTED = 1
"""The exit code when the measured bound is above the claim."""
SIGMA, RATE, STEPS, DELTA = 20.0, 0.25, 200, 1e-3
"""The configuration without a study: a claim so low that one run of 2 000 canaries can refute a broken mechanism."""


class TrainingPath(StrEnum):
    """The two ways to the clipped sum."""

    CLOSED_FORM = "closed-form"
    HOOKS = "hooks"


@app.callback()
def _privacy() -> None:
    pass


@app.command()
def probe(
    study: Annotated[
        Path | None,
        typer.Argument(metavar="[STUDY.toml]", help="A study's manifest: its σ, rate, steps, attempts, C and δ."),
    ] = None,
    sigma: Annotated[
        float | None, typer.Option(help=f"The noise multiplier σ; the study's, or {SIGMA:g} without one.")
    ] = None,
    rate: Annotated[float | None, typer.Option(help=f"The sampling rate q; {RATE} without a study.")] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, max=100_000, help=f"Noisy steps of an attempt; {STEPS} without a study.")
    ] = None,
    delta: Annotated[float | None, typer.Option(help=f"δ of the claim; {DELTA:g} without a study.")] = None,
    canaries: Annotated[int, typer.Option(min=2, max=10_000, help="Canaries, each put in by a fair coin.")] = 2000,
    guesses: Annotated[
        int | None, typer.Option(min=1, help="How many canaries to guess; chosen from the claim alone by default.")
    ] = None,
    confidence: Annotated[
        float, typer.Option(help="1 − the chance that a right mechanism is found wrong in a run.")
    ] = 0.95,
    path: Annotated[
        TrainingPath, typer.Option(help="The training path: closed-form as for linear layers, hooks as for all others.")
    ] = TrainingPath.CLOSED_FORM,
    encounters: Annotated[
        int, typer.Option(min=1, max=20, help="Rows of each canary; the unit stays the patient.")
    ] = 1,
    plant: Annotated[
        float, typer.Option(help="Plant a fault to see it caught: multiply the noise that runs, not the claim.")
    ] = 1.0,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Repeat the choice of canaries; the noise is never repeated.")
    ] = None,
    as_json: bool = JsonOption,
) -> None:
    """Train once on canaries with a hospital's own training code, and measure a lower bound on ε beside the claim.

    A one-run audit (Steinke, Nasr & Jagielski 2023). Exit code 1 if the bound is above the claim. A low bound proves nothing.
    No patient's data is used and no budget is spent.
    """
    import numpy as np

    from fedward.privacy.draws import SecureDraws
    from fedward.simulations.probe import Design, plan
    from fedward.simulations.probe import probe as run

    mechanism = _mechanism(study, sigma, rate, steps, delta)
    design = (
        plan(mechanism, canaries, confidence, path.value)
        if guesses is None
        else Design(canaries, guesses, confidence, path.value)
    )
    design = Design(design.canaries, design.guesses, design.confidence, design.path, encounters)
    finding = run(mechanism, design, SecureDraws(), np.random.default_rng(seed), plant=plant, tell=_progress())
    if as_json:
        print_json(_as_json(mechanism, finding))
    else:
        _say(mechanism, finding)
    if not finding.holds:
        raise typer.Exit(REFUTED)


def _mechanism(
    study: Path | None, sigma: float | None, rate: float | None, steps: int | None, delta: float | None
) -> Mechanism:
    from dataclasses import replace

    from fedward.simulations.probe import Mechanism, of_study
    from fedward.study.manifest import load

    base = Mechanism(SIGMA, RATE, STEPS, DELTA) if study is None else of_study(load(study), sigma)
    return replace(
        base,
        noise_multiplier=base.noise_multiplier if sigma is None else sigma,
        sampling_rate=base.sampling_rate if rate is None else rate,
        steps=base.steps if steps is None else steps,
        delta=base.delta if delta is None else delta,
    )


def _progress(every: float = 5.0) -> Callable[[str], None]:
    """A line at once and then at most every so many seconds."""
    last: list[float] = []

    def tell(text: str) -> None:
        now = time.monotonic()
        if not last or now - last[-1] >= every:
            last.append(now)
            note(text)

    return tell


def _as_json(mechanism: Mechanism, finding: Finding) -> dict[str, object]:
    from fedward.simulations.probe import LIMITS, MEANING

    return {
        "holds": finding.holds,
        "claim": {"epsilon": finding.claim, "delta": mechanism.delta, "words": MEANING},
        "bound": finding.bound,
        "p_value": finding.p_value,
        "mechanism": vars(mechanism),
        "design": vars(finding.design),
        "included": finding.included,
        "correct": finding.correct,
        "plant": finding.plant,
        "noticeable": finding.noticeable,
        "seconds": round(finding.seconds, 2),
        "limits": list(LIMITS),
    }


def _say(mechanism: Mechanism, finding: Finding) -> None:
    from fedward.simulations.probe import LIMITS, MEANING

    design = finding.design
    rows = [
        ("claimed: ε at most", f"{finding.claim:.4f}"),
        (f"measured: ε at least ({design.confidence:.6g})", f"{finding.bound:.4f}"),
        ("p-value of the claim", f"{finding.p_value:.2g}"),
        ("guesses that were right", f"{finding.correct} of {design.guesses}"),
        ("canaries, and those in", f"{design.canaries}, {finding.included}"),
        ("took", f"{finding.seconds:.1f} s"),
    ]
    attempts = f"{mechanism.attempts} × " if mechanism.attempts > 1 else ""
    title = (
        f"Probe of the {design.path} path: σ = {mechanism.noise_multiplier:g}, q = {mechanism.sampling_rate:g}, "
        f"{attempts}{mechanism.steps} steps, δ = {mechanism.delta:g}"
    )
    table(title, ("", "value"), rows)
    if finding.plant != 1:
        say(f"A fault was planted: the noise that ran was {finding.plant:g} of what is claimed.")
    say(_verdict(design, finding))
    say(_reach(finding))
    say(f"What ε means here: {MEANING}.")
    say("What this does not say:")
    for limit in LIMITS:
        say(f"  - {limit}")


def _verdict(design: Design, finding: Finding) -> str:
    if finding.holds:
        return "The measured bound is not above the claim. That is no proof of the claim."
    return (
        f"The claim is REFUTED: a mechanism that kept it would come out like this with a chance of at most "
        f"{max(finding.p_value, 1e-12):.2g} (a false alarm in at most {1 - design.confidence:.2g} of runs). "
        "The noise, the clipping, the sampling or the accounting is wrong."
    )


def _reach(finding: Finding) -> str:
    if finding.noticeable == 0:
        return "At this claim and with so many canaries the probe would notice nothing, not even noise left out."
    return f"A probe like this notices, 95 times in 100, noise of {finding.noticeable:g} of the claimed or less; more it may miss."
