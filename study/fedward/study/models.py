"""The model catalogue: what a hospital can train, by name. Nothing a coordinator sends is ever executed.

A hospital that wants another model installs a reviewed package that offers a `CatalogueModel` under the entry-point
group `fedward.models`. A model maps inputs (n, width) to logits (n,). On the wire a model is one float32 vector: its
parameters in the order of `named_parameters`, each row by row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedward.privacy.errors import InputError
from fedward.study.encoding import input_names
from fedward.study.manifest import ImageFeature, Manifest
from fedward.study.vectors import Vector

ENTRY_POINTS = "fedward.models"


@dataclass(frozen=True)
class CatalogueModel:
    """A model that hospitals may install: its name, its check of the manifest's options, and how it is built."""

    name: str
    description: str
    check: Callable[[Manifest], None]
    build: Callable[[Manifest], nn.Module]


class Logits(nn.Module):
    """Drops the last dimension: (n, 1) → (n,)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.squeeze(-1)


class _Image(nn.Module):
    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(-1, *self.shape)


def _refuse_options(manifest: Manifest, *, hidden: bool, channels: bool) -> None:
    model = manifest.model
    if bool(model.hidden) != hidden:
        need = "hidden = [..]" if hidden else "no hidden layers"
        raise InputError(f'model "{model.name}" is set up wrongly', expected=need, got=f"hidden = {list(model.hidden)}")
    if bool(model.channels) != channels:
        need = "channels = [..]" if channels else "no channels"
        raise InputError(
            f'model "{model.name}" is set up wrongly', expected=need, got=f"channels = {list(model.channels)}"
        )


def _no_images(manifest: Manifest) -> None:
    if any(isinstance(feature, ImageFeature) for feature in manifest.features):
        raise InputError(f'model "{manifest.model.name}" takes no image features', remedy='use "groupnorm-cnn"')


def _check_logistic(manifest: Manifest) -> None:
    _refuse_options(manifest, hidden=False, channels=False)
    _no_images(manifest)


def _build_logistic(manifest: Manifest) -> nn.Module:
    model = nn.Sequential(nn.Linear(len(input_names(manifest)), 1), Logits())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    return model


def _check_mlp(manifest: Manifest) -> None:
    _refuse_options(manifest, hidden=True, channels=False)
    _no_images(manifest)


def _build_mlp(manifest: Manifest) -> nn.Module:
    widths = (len(input_names(manifest)), *manifest.model.hidden)
    layers: list[nn.Module] = []
    for narrow, wide in pairwise(widths):
        layers += [nn.Linear(narrow, wide), nn.Tanh()]
    return _seeded(nn.Sequential(*layers, nn.Linear(widths[-1], 1), Logits()), manifest.model.seed)


def _check_cnn(manifest: Manifest) -> None:
    _refuse_options(manifest, hidden=False, channels=True)
    features = manifest.features
    if len(features) != 1 or not isinstance(features[0], ImageFeature):
        raise InputError('model "groupnorm-cnn" takes exactly one image feature', got=f"{len(features)} features")


def _build_cnn(manifest: Manifest) -> nn.Module:
    image = manifest.features[0]
    if not isinstance(image, ImageFeature):
        raise InputError('model "groupnorm-cnn" takes exactly one image feature')
    layers: list[nn.Module] = [_Image(image.shape)]
    before = image.shape[0]
    for channels in manifest.model.channels:
        # GroupNorm, not BatchNorm: a batch statistic would mix patients, which per-patient clipping cannot bound.
        groups = math.gcd(channels, 4)
        layers += [nn.Conv2d(before, channels, 3, stride=2, padding=1), nn.GroupNorm(groups, channels), nn.ReLU()]
        before = channels
    layers += [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(before * 4, 1), Logits()]
    return _seeded(nn.Sequential(*layers), manifest.model.seed)


def _seeded(model: nn.Module, seed: int) -> nn.Module:
    """Initial weights that every party computes alike, without touching the global generator (He et al. 2015)."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                fan_in = parameter[0].numel()
                bound = 1 / math.sqrt(fan_in)
                parameter.copy_((torch.rand(parameter.shape, generator=generator) * 2 - 1) * bound)
            elif name.endswith("bias"):
                parameter.zero_()
            else:
                parameter.fill_(1.0)
    return model


BUILT_IN = {
    model.name: model
    for model in (
        CatalogueModel("logistic-regression", "one linear layer", _check_logistic, _build_logistic),
        CatalogueModel("mlp", "linear layers with tanh between", _check_mlp, _build_mlp),
        CatalogueModel("groupnorm-cnn", "small convolutional network with GroupNorm", _check_cnn, _build_cnn),
    )
}


def catalogue() -> dict[str, CatalogueModel]:
    """Every model that this installation offers, built in or installed.

    Raises:
        InputError: an installed package offers something that is no CatalogueModel, or takes a built-in name.
    """
    return BUILT_IN | _found(entry_points)


@lru_cache(maxsize=1)
def _found(search: Callable[..., Iterable[EntryPoint]]) -> dict[str, CatalogueModel]:
    """A process searches once, which reads every installed package: what is installed later is for the next process."""
    found: dict[str, CatalogueModel] = {}
    for point in search(group=ENTRY_POINTS):
        offered = point.load()
        if not isinstance(offered, CatalogueModel) or offered.name in BUILT_IN | found:
            raise InputError(
                f'the installed model "{point.name}" cannot be used', expected="a CatalogueModel of a new name"
            )
        found[offered.name] = offered
    return found


def build(manifest: Manifest) -> nn.Module:
    """The study's model with its initial parameters; inputs (n, width) float32 → logits (n,).

    Raises:
        InputError: the catalogue has no such model, or its options do not fit the study.
    """
    offered = catalogue()
    chosen = offered.get(manifest.model.name)
    if chosen is None:
        raise InputError(
            f'no model "{manifest.model.name}" is installed',
            expected="one of " + ", ".join(sorted(offered)),
            remedy="correct model.name, or install the package that offers it",
        )
    chosen.check(manifest)
    # Torch's layers draw their first weights from the global generator; a caller's randomness must not shift for that.
    with torch.random.fork_rng(devices=[]):
        return chosen.build(manifest)


def dimension(model: nn.Module) -> int:
    """Number of parameters d."""
    return sum(parameter.numel() for parameter in model.parameters())


def to_vector(model: nn.Module) -> Vector:
    """The parameters as one vector, shape (d,)."""
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()]).numpy().astype(np.float32)


def load_vector(model: nn.Module, vector: Vector) -> None:
    """Set the parameters from a vector, shape (d,).

    Raises:
        InputError: another length than the model's.
    """
    if vector.shape != (dimension(model),):
        raise InputError("the parameters do not fit the model", expected=f"{dimension(model)}", got=f"{vector.shape}")
    source = torch.from_numpy(np.array(vector, dtype=np.float32))
    position = 0
    with torch.no_grad():
        for parameter in model.parameters():
            size = parameter.numel()
            parameter.copy_(source[position : position + size].view_as(parameter))
            position += size


@torch.no_grad()
def scores(model: nn.Module, inputs: NDArray[np.float32]) -> NDArray[np.float64]:
    """Predicted probability of the outcome, shape (n,)."""
    if len(inputs) == 0:
        return np.zeros(0)
    model.eval()
    probability = torch.sigmoid(model(torch.from_numpy(inputs)).double()).numpy()
    return np.asarray(probability, dtype=np.float64)
