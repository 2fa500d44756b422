"""The `[simulation]` table of a study's file: what only the simulator reads. A coordinator refuses a study that has one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from fedward.privacy.errors import InputError
from fedward.study.examples import study_file
from fedward.study.fields import COLUMN, NAME, Part, Positive
from fedward.study.manifest import Manifest, parse, parse_data, read_toml

Attack = Literal["label-flip", "sign-flip", "scaling", "free-rider", "backdoor"]


class Trigger(Part):
    """A value of a feature that a backdoor reacts to."""

    column: Annotated[str, Field(pattern=COLUMN)]
    value: Annotated[float, Field(allow_inf_nan=False)] | str


class Adversary(Part):
    """A site that does not do as it should."""

    site: Annotated[str, Field(pattern=NAME)]
    attack: Attack
    factor: Positive | None = None
    """What its update is multiplied by: 1 if left out, and 10 where that is the attack."""
    share: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    """Of its patients, those that it falsifies: all if left out, half for a backdoor."""
    trigger: Annotated[tuple[Trigger, ...], Field(max_length=20)] = ()
    target: Literal[0, 1] = 1
    """The outcome that a backdoor wants for patients with the trigger."""

    @model_validator(mode="after")
    def _coherent(self) -> Adversary:
        if self.attack == "backdoor" and not self.trigger:
            raise ValueError('a backdoor needs a trigger, such as [{ column = "age", value = 99 }]')
        if self.attack != "backdoor" and self.trigger:
            raise ValueError(f"a trigger belongs to a backdoor, not to {self.attack}")
        if self.attack not in {"label-flip", "backdoor"} and self.share is not None:
            raise ValueError(f"share belongs to label-flip and backdoor, not to {self.attack}")
        if self.attack == "free-rider" and self.factor is not None:
            raise ValueError("a free-rider sends nothing that could be multiplied: leave out factor")
        return self

    @property
    def scale(self) -> float:
        """What the update is multiplied by, with its sign."""
        if self.attack == "free-rider":
            return 0.0
        size = self.factor if self.factor is not None else (10.0 if self.attack == "scaling" else 1.0)
        return -size if self.attack == "sign-flip" else size

    @property
    def falsified(self) -> float:
        """The share of its training patients that it falsifies."""
        if self.attack == "backdoor":
            return 0.5 if self.share is None else self.share
        return (1.0 if self.share is None else self.share) if self.attack == "label-flip" else 0.0


class Options(Part):
    """How a study is simulated, beyond what it says itself."""

    threshold: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)] = 0.5
    """A probability from here on is called positive, where sensitivity, gaps and attacks need a decision."""
    adversaries: Annotated[tuple[Adversary, ...], Field(max_length=1000)] = ()

    @model_validator(mode="after")
    def _coherent(self) -> Options:
        sites = [one.site for one in self.adversaries]
        if len(set(sites)) != len(sites):
            raise ValueError("adversaries name a site twice: give it one entry")
        return self

    def with_threshold(self, threshold: float) -> Options:
        """The same with another threshold.

        Raises:
            InputError: it is not between 0 and 1.
        """
        if not 0 < threshold < 1:
            raise InputError(
                "the threshold is no probability", expected="a number between 0 and 1", got=f"{threshold:g}"
            )
        return self.model_copy(update={"threshold": threshold})


PLAIN = Options()


def load_study(study: Path | str) -> tuple[Manifest, Options]:
    """A study, and its `[simulation]` table: from a TOML file, a folder with study.toml, or an example by its name.

    Raises:
        InputError: as `manifest.load`, or the table is not valid.
    """
    path = study_file(study)
    return split_study(read_toml(path, "manifest"), path.name)


def split_study(data: dict[str, Any], source: str) -> tuple[Manifest, Options]:
    """The same from parsed TOML; errors as `load_study`."""
    rest = {name: value for name, value in data.items() if name != "simulation"}
    manifest = parse(rest, source)
    options = parse_data(Options, data.get("simulation", {}), f"{source}, [simulation]", "simulation table")
    return manifest, options
