"""Committed models as safetensors files named by their digest, and the server optimiser's state as bytes."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.numpy import load, save

from fedward.privacy.errors import IntegrityError
from fedward.server.aggregation import OptimiserState
from fedward.study.files import write_atomic
from fedward.study.models import Vector, vector_digest


def save_model(folder: Path, vector: Vector, study: str, version: int) -> str:
    """Write a model's parameters, shape (d,) float32, durably; returns its digest. Writing it twice changes nothing."""
    name = vector_digest(vector)
    path = folder / f"{name}.safetensors"
    if not path.exists():
        write_atomic(path, save({"parameters": vector}, {"study": study, "version": str(version)}))
    return name


def load_model(folder: Path, name: str) -> Vector:
    """A committed model's parameters, shape (d,) float32, checked against its name.

    Raises:
        IntegrityError: the file is missing, damaged, or not the model that its name says.
    """
    path = folder / f"{name}.safetensors"
    try:
        vector: Vector = load(path.read_bytes())["parameters"]
    except (OSError, SafetensorError, KeyError):
        raise IntegrityError(f"the model {name[:12]} cannot be read", remedy=f"restore {path} from a backup") from None
    if vector_digest(vector) != name:
        raise IntegrityError(f"the model file {path.name} was changed", remedy="restore it from a backup")
    return vector


def pack_optimiser(state: OptimiserState) -> bytes:
    return bytes(save({"first": state.first, "second": state.second}))


def unpack_optimiser(data: bytes) -> OptimiserState:
    """
    Raises:
        IntegrityError: the bytes are damaged.
    """
    try:
        arrays = load(data)
        return OptimiserState(arrays["first"], arrays["second"])
    except (SafetensorError, KeyError):
        raise IntegrityError("the optimiser's state is damaged", remedy="restore the store from a backup") from None
