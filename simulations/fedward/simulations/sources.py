"""Where a simulation's hospitals come from, by one text: an example's name, a folder, or made-up hospitals.

heart                            the four hospitals of the embedded example
DIR                              a folder with NAME.csv and NAME.mapping.toml for each hospital
synthetic:SITES:PATIENTS[:SHIFT] made up, with a known truth
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fedward.privacy.errors import UsageError
from fedward.simulations.folders import cut_hospitals, read_hospitals
from fedward.simulations.partition import parse_partition
from fedward.simulations.synthetic import synthetic
from fedward.study.encoding import Encoded
from fedward.study.heart import heart_folder
from fedward.study.manifest import Manifest


@dataclass(frozen=True)
class Sites:
    """Hospitals to simulate with.

    Attributes:
        hospitals: each one's patients, encoded, by name.
        said: what a person should know of them, in a sentence; often nothing.
    """

    hospitals: Mapping[str, Encoded]
    said: str = ""


def read_sites(text: str, manifest: Manifest, partition: str | None = None) -> Sites:
    """The hospitals that a text names.

    Args:
        text: one of the forms above.
        manifest: the study, whose encoding they get.
        partition: how to cut all their patients anew, one of `partition.FORMS`; None leaves them as they are.

    Raises:
        UsageError: the text is malformed, or made-up hospitals were to be cut.
        InputError: the data is not there, does not fit the study or cannot be cut so.
    """
    if text.startswith("synthetic:"):
        return _made_up(text, manifest, partition)
    folder = heart_folder() if text == "heart" else Path(text)
    if partition is None:
        return Sites(read_hospitals(folder, manifest))
    return Sites(cut_hospitals(folder, manifest, parse_partition(partition)))


def _made_up(text: str, manifest: Manifest, partition: str | None) -> Sites:
    if partition is not None:
        raise UsageError("made-up hospitals are not cut anew", remedy="leave out --partition; SHIFT makes them differ")
    try:
        number, patients, *shift = text.removeprefix("synthetic:").split(":")
        numbers = int(number), int(patients), float(*shift)
    except (ValueError, TypeError):
        raise UsageError(
            "--sites is no made-up hospitals",
            expected="synthetic:SITES:PATIENTS or synthetic:SITES:PATIENTS:SHIFT",
            got=text,
        ) from None
    made = synthetic(manifest, *numbers)
    return Sites(made.hospitals, f"the best possible AUROC on these made-up patients is {made.best:.3f}")
