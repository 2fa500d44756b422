"""Row gradients against Opacus's own hooks, on models of every kind of layer that is taken."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from opacus.grad_sample import GradSampleHooks
from torch import nn

from fedward.client.row_gradients import RowGradients, supported
from fedward.privacy.errors import FedwardError


class Twice(nn.Module):
    """One layer, used two times."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(torch.tanh(self.layer(x)))  # type: ignore[no-any-return]


class Overwriting(nn.Module):
    """Changes a layer's output where no module shows it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x)).mul_(2.0)  # type: ignore[no-any-return]


def partly_frozen() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
    for parameter in model[0].parameters():
        parameter.requires_grad_(False)
    return model


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), (4,)),
    "no bias": (lambda: nn.Linear(4, 3, bias=False), (4,)),
    "image": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3, stride=2, padding=1),
            nn.GroupNorm(2, 4),
            nn.ReLU(),
            nn.Conv2d(4, 6, 3, groups=2),
            nn.Flatten(),
        ),
        (2, 9, 7),
    ),
    "unusual convolutions": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 3, (3, 2), padding=(0, 1), dilation=(2, 1), bias=False),
            nn.Conv2d(3, 4, 3, padding="same"),
            nn.Conv2d(4, 4, 3, stride=(2, 1), groups=4),  # of one channel each
            nn.Flatten(),
        ),
        (2, 9, 8),
    ),
    "signal": (lambda: nn.Sequential(nn.Conv1d(2, 3, 3), nn.LayerNorm(6), nn.Flatten(), nn.Linear(18, 2)), (2, 8)),
    "volume": (lambda: nn.Sequential(nn.Conv3d(1, 2, 2), nn.Flatten()), (1, 3, 3, 4)),
    "twice": (Twice, (4,)),
    "partly frozen": (partly_frozen, (4,)),
}


def loss_of(model: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    return model(inputs).square().sin().sum()  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("rows", [1, 5])
def test_rows_are_those_of_the_hooks(name: str, rows: int) -> None:
    make, shape = MODELS[name]
    torch.manual_seed(0)
    ours = make()
    theirs = copy.deepcopy(ours)
    gradients = RowGradients(ours)
    GradSampleHooks(theirs, loss_reduction="sum")
    for turn in range(2):  # a second batch must forget the first
        inputs = torch.randn((rows, *shape), generator=torch.Generator().manual_seed(turn))
        gradients.compute(lambda batch=inputs: loss_of(ours, batch))  # type: ignore[misc]
        for parameter in theirs.parameters():
            parameter.grad_sample = None  # type: ignore[attr-defined]
        loss_of(theirs, inputs).backward()  # type: ignore[no-untyped-call]
        for mine, wanted in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert mine.requires_grad == wanted.requires_grad
            if wanted.requires_grad:
                torch.testing.assert_close(mine.grad_sample, wanted.grad_sample)  # type: ignore[attr-defined]
                assert mine.grad is None


def test_words_are_embedded() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(6, 1))
    words = torch.tensor([[0, 4], [1, 1], [2, 0]])
    RowGradients(model).compute(lambda: loss_of(model, words))
    for row in range(3):
        alone = copy.deepcopy(model)
        loss_of(alone, words[row : row + 1]).backward()  # type: ignore[no-untyped-call]
        for mine, wanted in zip(model.parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(mine.grad_sample[row], wanted.grad)  # type: ignore[attr-defined]


def tied() -> nn.Module:
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    second.weight = first.weight
    return nn.Sequential(first, second)


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Linear(3, 3), nn.ReLU(inplace=True)),
        nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)),
        nn.LSTM(3, 3),
        tied(),
    ],
)
def test_other_models_are_left_to_the_hooks(model: nn.Module) -> None:
    assert not supported(model)
    with pytest.raises(ValueError, match="hooks"):
        RowGradients(model)


def test_a_hidden_change_in_place_is_noticed_and_parameters_thaw() -> None:
    model = Overwriting()
    gradients = RowGradients(model)
    with pytest.raises(FedwardError, match="in place"):
        gradients.compute(lambda: loss_of(model, torch.randn((2, 4))))
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_an_error_in_the_model_thaws_its_parameters() -> None:
    model = nn.Linear(3, 1)
    gradients = RowGradients(model)
    with pytest.raises(RuntimeError):
        gradients.compute(lambda: loss_of(model, torch.randn((2, 7))))
    assert all(parameter.requires_grad for parameter in model.parameters())
