"""Each row's gradient by Opacus's own rules for layers, without the whole batch's gradient, which its hooks compute as well.

The model runs with frozen parameters, so that automatic differentiation goes through the layers' outputs alone; what each layer was
given and the loss's derivative at its output then go to Opacus's sampler of that layer. The numbers are those of
`GradSampleHooks`, at about half its time for a convolutional network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from opacus.grad_sample import GradSampleModule
from torch import nn
from torch.nn.grad import conv2d_weight

from fedward.privacy.errors import FedwardError

# One tensor in, one out, first axis the rows; other layers of Opacus's list (recurrent ones) are driven by its hooks.
_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.GroupNorm, nn.LayerNorm, nn.Embedding)


_Sampler: TypeAlias = Callable[[Any, list[torch.Tensor], torch.Tensor], dict[Any, torch.Tensor]]


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
            for parameter, rows in _sampler(layer)(layer, [given], derivative).items():
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


def _sampler(layer: nn.Module) -> _Sampler:
    """What makes each row's gradients of a layer's parameters from what it was given and the derivative at its output."""
    if (
        isinstance(layer, nn.Conv2d)
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
        and layer.in_channels > layer.groups  # of one channel each, Opacus's unfolding is the faster
    ):
        return _convolved
    own: _Sampler = GradSampleModule.GRAD_SAMPLERS[type(layer)]
    return own


def _convolved(layer: nn.Conv2d, given: list[torch.Tensor], derivative: torch.Tensor) -> dict[Any, torch.Tensor]:
    """A convolution's, as one of n times as many groups over the rows side by side: nothing is unfolded, at half the time."""
    inputs, rows = given[0], len(given[0])
    found = {}
    if layer.weight.requires_grad:
        side_by_side = conv2d_weight(  # type: ignore[no-untyped-call]
            inputs.reshape(1, -1, *inputs.shape[2:]),
            torch.Size((rows * layer.out_channels, *layer.weight.shape[1:])),
            derivative.reshape(1, -1, *derivative.shape[2:]),
            layer.stride,
            layer.padding,
            layer.dilation,
            rows * layer.groups,
        )
        found[layer.weight] = side_by_side.reshape(rows, *layer.weight.shape)
    if layer.bias is not None and layer.bias.requires_grad:
        found[layer.bias] = derivative.sum(dim=(2, 3))
    return found


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
