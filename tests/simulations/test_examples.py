"""Every example is a study that a coordinator could seal, and a secure sum could hold."""

from __future__ import annotations

import pytest

from fedward.privacy.errors import InputError
from fedward.simulations.baselines import rehearse
from fedward.study.examples import EXAMPLES, example_folder
from fedward.study.kinds import parse_sealed
from fedward.study.manifest import load
from fedward.study.models import build, dimension
from fedward.study.secure import check_plan


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_can_be_sealed(name: str) -> None:
    manifest = load(example_folder(name) / "study.toml")
    sealed = rehearse(manifest, {f"site-{number:02}": 900 for number in range(12)})
    assert parse_sealed(sealed.canonical) == sealed
    assert manifest.privacy.secure_aggregation
    check_plan(sealed, dimension(build(manifest)))


def test_another_name_is_refused() -> None:
    with pytest.raises(InputError, match=r"no example.*heart, diabetes130, pneumonia"):
        example_folder("lung")
