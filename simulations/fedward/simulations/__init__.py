"""Studies on one machine, for notebooks and scripts: what `fedward simulate` and `fedward sweep` do, as typed functions.

from fedward.simulations import load_study, read_sites, run_seeds, score_table

manifest, options = load_study("heart")
outcomes = run_seeds(manifest, read_sites("heart", manifest).hospitals, 20, options=options)
score_table(outcomes)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedward.simulations.grid import Setting as Setting
    from fedward.simulations.grid import Vary as Vary
    from fedward.simulations.grid import settings as settings
    from fedward.simulations.options import Adversary as Adversary
    from fedward.simulations.options import Options as Options
    from fedward.simulations.options import load_study as load_study
    from fedward.simulations.plots import draw as draw
    from fedward.simulations.run_folder import RunFolder as RunFolder
    from fedward.simulations.run_folder import round_table as round_table
    from fedward.simulations.run_folder import score_table as score_table
    from fedward.simulations.scores import Score as Score
    from fedward.simulations.scores import Summary as Summary
    from fedward.simulations.seeds import run_seeds as run_seeds
    from fedward.simulations.simulate import Outcome as Outcome
    from fedward.simulations.simulate import attacked as attacked
    from fedward.simulations.simulate import gains as gains
    from fedward.simulations.simulate import gaps as gaps
    from fedward.simulations.simulate import study as study
    from fedward.simulations.simulate import summarise as summarise
    from fedward.simulations.sources import read_sites as read_sites
    from fedward.simulations.sweep import choose as choose
    from fedward.simulations.sweep import validate as validate

_HOMES = {
    "grid": ("Setting", "Vary", "settings"),
    "options": ("Adversary", "Options", "load_study"),
    "plots": ("draw",),
    "run_folder": ("RunFolder", "round_table", "score_table"),
    "scores": ("Score", "Summary"),
    "seeds": ("run_seeds",),
    "simulate": ("Outcome", "attacked", "gains", "gaps", "study", "summarise"),
    "sources": ("read_sites",),
    "sweep": ("choose", "validate"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME)  # noqa: PLE0605 - a list of names, made from the table above


def __getattr__(name: str) -> Any:
    """Each name from its module, when it is first asked for: torch takes seconds."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
