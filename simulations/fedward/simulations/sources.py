"""Where a simulation's hospitals come from, by one text: an example's name, a folder, a download, or made-up hospitals.

heart                            the four hospitals of the embedded example
DIR                              a folder with NAME.csv and NAME.mapping.toml for each hospital
diabetes130:PATH                 a download of UCI's Diabetes 130-US Hospitals; without a partition, a hospital for each specialty
medmnist:PATH                    a .npz file of images in MedMNIST's layout; it needs a partition
synthetic:SITES:PATIENTS[:SHIFT] made up, with a known truth
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from fedward.privacy.errors import InputError, UsageError
from fedward.simulations.diabetes130 import SPECIALTY, read_stays
from fedward.simulations.folders import cut_hospitals, cut_table, read_hospitals
from fedward.simulations.medmnist import read_images
from fedward.simulations.partition import parse_partition
from fedward.simulations.synthetic import synthetic
from fedward.study.eligibility import Unmet, tally, unmet
from fedward.study.encoding import Encoded
from fedward.study.heart import heart_folder
from fedward.study.manifest import Manifest


@dataclass(frozen=True)
class Sites:
    """Hospitals to simulate with.

    Attributes:
        hospitals: each one's patients, encoded, by name.
        said: what a person should know of them, in a sentence; often nothing.
        not_eligible: those left out, for they do not meet what the study demands of a hospital's patients, and what they lack.
    """

    hospitals: Mapping[str, Encoded]
    said: str = ""
    not_eligible: Mapping[str, tuple[Unmet, ...]] = field(default_factory=dict)

    @property
    def left_out(self) -> list[str]:
        """A sentence for each hospital that is left out."""
        return [
            f"{name} is left out: it does not meet the study's eligibility ({'; '.join(one.words for one in lacks)})"
            for name, lacks in self.not_eligible.items()
        ]


def read_sites(text: str, manifest: Manifest, partition: str | None = None) -> Sites:
    """The hospitals that a text names.

    Args:
        text: one of the forms above.
        manifest: the study, whose encoding they get.
        partition: how to cut all their patients anew, one of `partition.FORMS`; None leaves them as they are.

    Raises:
        UsageError: the text is malformed, made-up hospitals were to be cut, or data that names no hospitals was not.
        InputError: the data is not there, does not fit the study or cannot be cut so; or no hospital meets the study's demands.
    """
    return _eligible(_read(text, manifest, partition), manifest)


def _eligible(found: Sites, manifest: Manifest) -> Sites:
    """Without the hospitals that do not meet the study's demands, as each would find out for itself."""
    if manifest.eligibility is None:
        return found
    lacks = {name: unmet(manifest.eligibility, tally(data, manifest)) for name, data in found.hospitals.items()}
    kept = {name: data for name, data in found.hospitals.items() if not lacks[name]}
    made = replace(found, hospitals=kept, not_eligible={name: short for name, short in lacks.items() if short})
    if not kept:
        raise InputError(
            "no hospital meets what the study demands of its patients",
            got=made.left_out[0] if made.left_out else "no hospital",
            remedy="lower the numbers of [eligibility], or simulate with larger hospitals",
        )
    return made


def _read(text: str, manifest: Manifest, partition: str | None) -> Sites:
    kind, colon, rest = text.partition(":")
    if kind in _READERS and (colon or not Path(text).exists()):
        if not rest:
            raise UsageError("--sites lacks what is behind the colon", expected=f"{kind}:{_REST[kind]}", got=text)
        return _READERS[kind](rest, manifest, partition)
    if text != "heart":
        return Sites(_folder(Path(text), manifest, partition))
    try:
        return Sites(_folder(heart_folder(), manifest, partition))
    except InputError as error:
        raise InputError(
            f'the heart example\'s hospitals do not serve study "{manifest.study.id}"',
            got=error.text(),
            remedy="name other hospitals with --sites",
        ) from None


def _folder(folder: Path, manifest: Manifest, partition: str | None) -> dict[str, Encoded]:
    if partition is None:
        return read_hospitals(folder, manifest)
    return cut_hospitals(folder, manifest, parse_partition(partition))


def _stays(path: str, manifest: Manifest, partition: str | None) -> Sites:
    stays = read_stays(Path(path), manifest)
    said = (
        f"{len(stays.frame)} stays of {stays.frame.index.nunique()} patients; {stays.left_out} that ended in death or hospice "
        f"are left out, {stays.clipped} values are clipped to the study's bounds"
    )
    if partition is None:
        said += "; the data names no hospital: pseudo-sites by the admitting physician's specialty"
    how = parse_partition(partition or f"column:{SPECIALTY}")
    return Sites(cut_table(stays.frame, manifest, how), said)


def _images(path: str, manifest: Manifest, partition: str | None) -> Sites:
    if partition is None:
        raise UsageError(
            "these images name no hospitals", remedy="say how to cut them, such as --partition labels:5:0.5 or iid:5"
        )
    frame = read_images(Path(path), manifest)
    return Sites(
        cut_table(frame, manifest, parse_partition(partition)),
        f"{len(frame)} images, each counted as a patient: the data names none",
    )


def _made_up(text: str, manifest: Manifest, partition: str | None) -> Sites:
    if partition is not None:
        raise UsageError("made-up hospitals are not cut anew", remedy="leave out --partition; SHIFT makes them differ")
    try:
        number, patients, *shift = text.split(":")
        numbers = int(number), int(patients), float(*shift)
    except (ValueError, TypeError):
        raise UsageError(
            "--sites is no made-up hospitals",
            expected="synthetic:SITES:PATIENTS or synthetic:SITES:PATIENTS:SHIFT",
            got=f"synthetic:{text}",
        ) from None
    made = synthetic(manifest, *numbers)
    return Sites(made.hospitals, f"the best possible AUROC on these made-up patients is {made.best:.3f}")


_REST = {"synthetic": "SITES:PATIENTS[:SHIFT]", "diabetes130": "PATH", "medmnist": "PATH"}
_READERS = {"synthetic": _made_up, "diabetes130": _stays, "medmnist": _images}
