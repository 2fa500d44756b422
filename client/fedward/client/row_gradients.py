"""Each row's gradient by Opacus's own rules for layers, without the whole batch's gradient, which its hooks compute as well.

The model runs with frozen parameters, so that automatic differentiation goes through the layers' outputs alone; what each layer was
given and the loss's derivative at its output then go to Opacus's sampler of that layer. The numbers are those of
`GradSampleHooks`, at about half its time for a convolutional network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from opacus.grad_sample import GradSampleModule
from torch import nn

from fedward.privacy.errors import FedwardError

# One tensor in, one out, first axis the rows; other layers of Opacus's list (recurrent ones) are driven by its hooks.
_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.GroupNorm, nn.LayerNorm, nn.Embedding)


class RowGradients:
    """Writes `grad_sample`, shape (n, *parameter), to every trainable parameter of a model; nothing else of it changes."""

    def __init__(self, model: nn.Module) -> None:
        """
        Raises:
            ValueError: the model is not `supported`.
        """
        if not supported(model):
            raise ValueError("a layer of the model needs Opacus's hooks")
        self._trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._seen: list[tuple[nn.Module, torch.Tensor, torch.Tensor, int]] = []
        for layer in _own_layers(model):
            layer.register_forward_hook(self._see)

    def compute(self, loss: Callable[[], torch.Tensor]) -> None:
        """Each row's gradient of a loss that is a sum over rows.

        Args:
            loss: runs the model on at least one row and returns the sum.

        Raises:
            FedwardError: the model overwrites a layer's output in place, so that its derivative is not to be had.
        """
        self._seen.clear()
        with self._frozen():
            value = loss()
        if any(output._version != version for _, _, output, version in self._seen):
            raise FedwardError("the model changes a layer's output in place", code="in-place-model")
        derivatives = torch.autograd.grad(value, [output for _, _, output, _ in self._seen])
        for parameter in self._trainable:
            parameter.grad_sample = None  # type: ignore[attr-defined]
        for (layer, given, _, _), derivative in zip(self._seen, derivatives, strict=True):
            for parameter, rows in GradSampleModule.GRAD_SAMPLERS[type(layer)](layer, [given], derivative).items():
                before = parameter.grad_sample
                parameter.grad_sample = rows if before is None else before + rows
        self._seen.clear()

    def _see(self, layer: nn.Module, given: tuple[Any, ...], output: torch.Tensor) -> None:
        if torch.is_grad_enabled():
            if not output.requires_grad:
                output.requires_grad_()
            self._seen.append((layer, given[0].detach(), output, output._version))

    @contextmanager
    def _frozen(self) -> Iterator[None]:
        for parameter in self._trainable:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in self._trainable:
                parameter.requires_grad_(True)


def supported(model: nn.Module) -> bool:
    """Whether every layer with parameters of its own is one of a known kind, used as it is, and overwritten by none."""
    layers = _own_layers(model)
    own = [id(parameter) for layer in layers for parameter in layer.parameters(recurse=False)]
    return (
        all(type(layer) in _LAYERS for layer in layers)
        and len(set(own)) == len(own)  # a parameter of two layers would be told of one
        and not any(getattr(part, "inplace", False) for part in model.modules())
    )


def _own_layers(model: nn.Module) -> list[nn.Module]:
    """The modules that have trainable parameters of their own."""
    return [
        part for part in model.modules() if any(parameter.requires_grad for parameter in part.parameters(recurse=False))
    ]
