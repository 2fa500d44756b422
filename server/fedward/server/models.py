"""Committed models as safetensors files named by their digest, and the server optimiser's state as bytes."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from fedward.privacy.errors import InputError, IntegrityError, UnreachableError
from fedward.server.aggregation import OptimiserState
from fedward.study.files import write_atomic
from fedward.study.manifest import HEX_KEY
from fedward.study.vectors import Vector, vector_digest


def save_model(folder: Path, vector: Vector, study: str, version: int) -> str:
    """Write a model's parameters, shape (d,) float32, durably; returns its digest. One that is there and whole stays."""
    name = vector_digest(vector)
    if not _whole(folder, name):
        write_atomic(_path(folder, name), save({"parameters": vector}, {"study": study, "version": str(version)}))
    return name


def load_model(folder: Path, name: str) -> Vector:
    """A committed model's parameters, shape (d,) float32, checked against its name; errors as `read_model_file`."""
    return check_model(_read(folder, name), name)


def read_model_file(folder: Path, name: str) -> bytes:
    """A committed model's file, whose parameters are checked against its name.

    Raises:
        InputError: the name is no digest.
        IntegrityError: the file is missing, damaged, or not the model that its name says.
        UnreachableError: it cannot be read now, which says nothing about what it holds.
    """
    data = _read(folder, name)
    check_model(data, name)
    return data


def model_size(folder: Path, name: str) -> int:
    """The length of a committed model's file in bytes, before anything is read; errors as `read_model_file`."""
    path = _path(folder, name)
    try:
        return path.stat().st_size
    except OSError as error:
        raise _unreadable(path, error) from None


def check_model(data: bytes, name: str) -> Vector:
    """The parameters in a model's file, shape (d,) float32.

    Raises:
        IntegrityError: it is damaged, or not the model of this digest.
    """
    try:
        vector: Vector = load(data)["parameters"]
    except (SafetensorError, KeyError):
        raise IntegrityError(
            f"the file of the model {name[:12]} is damaged", remedy="restore it from a backup"
        ) from None
    if vector.dtype != np.float32 or vector.ndim != 1 or vector_digest(vector) != name:
        raise IntegrityError(
            f"the file of the model {name[:12]} holds another model", remedy="restore it from a backup"
        )
    return vector


def set_aside(folder: Path, name: str) -> None:
    """Keep a damaged file under another name, for whoever looks into it; it is never read again."""
    path = _path(folder, name)
    with contextlib.suppress(FileNotFoundError):
        path.rename(path.with_name(f"{path.name}.damaged"))


def _whole(folder: Path, name: str) -> bool:
    try:
        check_model(_read(folder, name), name)
    except IntegrityError:
        return False
    return True


def _read(folder: Path, name: str) -> bytes:
    path = _path(folder, name)
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from None


def _path(folder: Path, name: str) -> Path:
    if not re.fullmatch(HEX_KEY, name):  # it may come from another machine, and shall name no other file
        raise InputError("no model has this name", expected="the digest of its parameters, 64 digits")
    return folder / f"{name}.safetensors"


def _unreadable(path: Path, error: OSError) -> IntegrityError | UnreachableError:
    if isinstance(error, FileNotFoundError):
        return IntegrityError(f"the file of the model {path.stem[:12]} is gone", remedy=f"restore {path} from a backup")
    return UnreachableError(
        f"the file of the model {path.stem[:12]} cannot be read now",
        got=error.strerror,
        remedy=f"see to the disk, or correct the permissions of {path}",
    )


def pack_optimiser(state: OptimiserState) -> bytes:
    """The state as bytes. A vector of zeros is left out: most algorithms have no second moment, and a large one weighs 8 bytes a
    parameter in every commit."""
    moments = {"first": state.first, "second": state.second}
    kept = {name: vector for name, vector in moments.items() if vector.any()}
    return bytes(save({"size": np.array([len(state.first)]), **kept}))


def unpack_optimiser(data: bytes) -> OptimiserState:
    """
    Raises:
        IntegrityError: the bytes are damaged.
    """
    try:
        arrays = load(data)
        if "size" not in arrays:  # written before zeros were left out
            return OptimiserState(arrays["first"], arrays["second"])
        zeros = OptimiserState.zeros(int(arrays["size"][0]))  # pages of zeros take no memory until they are written
        return OptimiserState(arrays.get("first", zeros.first), arrays.get("second", zeros.second))
    except (SafetensorError, KeyError):
        raise IntegrityError("the optimiser's state is damaged", remedy="restore the store from a backup") from None
