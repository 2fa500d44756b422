"""Images in MedMNIST's layout, as one checked table to be cut into hospitals.

A .npz file holds `train_images`, `train_labels`, `val_…` and `test_…`: images (n, H, W) or (n, H, W, 3) in whole numbers, and
labels (n, 1) or (n,) of 0 and 1.

The layout's own three parts are joined: each simulated study holds patients out anew. It names no patients, so each image is one.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedward.privacy.errors import InputError
from fedward.simulations.archives import MOST_BYTES, member
from fedward.study.encoding import feature_columns
from fedward.study.manifest import ImageFeature, Manifest

PARTS = ("train", "val", "test")


def read_images(path: Path, manifest: Manifest) -> pd.DataFrame:
    """Read a file of images.

    Args:
        path: the .npz file. Nothing in it is ever unpickled.
        manifest: a study of exactly one feature, an image.

    Returns:
        a row an image, indexed by part and number; the study's pixel columns, channel first, and its outcome.

    Raises:
        InputError: the file is not there, has not this layout or does not fit the study, or outcomes are not 0 and 1.
    """
    image = _image(manifest)
    if not path.is_file():
        raise InputError(f"no images at {path}", expected="a .npz file in MedMNIST's layout")
    tables = [_part(path, part, image, manifest.outcome.column) for part in PARTS]
    return pd.concat(tables)


def _image(manifest: Manifest) -> ImageFeature:
    feature = manifest.features[0]
    if len(manifest.features) != 1 or not isinstance(feature, ImageFeature):
        raise InputError(
            f'study "{manifest.study.id}" is no study of images alone',
            expected="exactly one feature, an image",
            remedy="start from the example pneumonia",
        )
    return feature


def _part(path: Path, part: str, image: ImageFeature, outcome: str) -> pd.DataFrame:
    images = _channel_first(_array(path, f"{part}_images"), path, part)
    labels = _outcomes(_array(path, f"{part}_labels"), path, part)
    if len(images) != len(labels):
        raise InputError(
            f"{path.name} has {len(images)} {part}_images and {len(labels)} {part}_labels",
            expected="one label an image",
        )
    if images.shape[1:] != image.shape:
        raise InputError(
            f"{part}_images of {path.name} do not fit the study's image",
            expected=f"channels, height, width {_written(image.shape)}",
            got=_written(images.shape[1:]),
            remedy="correct the shape in the study",
        )
    low, high = image.bounds
    if images.size and not (low <= images.min() and images.max() <= high):
        raise InputError(
            f"{part}_images of {path.name} are outside the study's bounds",
            expected=f"{low:g} to {high:g}",
            got=f"{images.min()} to {images.max()}",
        )
    index = pd.Index([f"{part}-{number}" for number in range(len(images))], dtype=object, name="patient")
    pixels = images.reshape(len(images), image.pixels)
    frame = pd.DataFrame(pixels, index=index, columns=pd.Index(feature_columns(image)))
    return pd.concat([frame, pd.Series(labels, index=index, name=outcome)], axis=1)


def _channel_first(images: NDArray[np.generic], path: Path, part: str) -> NDArray[np.generic]:
    """(n, channels, height, width), of grey or coloured images."""
    if images.ndim == 3:
        return images[:, None]
    if images.ndim == 4 and images.shape[3] == 3:
        return np.moveaxis(images, 3, 1)
    raise InputError(
        f"{part}_images of {path.name} are no flat images",
        expected="shape (n, height, width) or (n, height, width, 3)",
        got=_written(images.shape),
    )


def _outcomes(labels: NDArray[np.generic], path: Path, part: str) -> NDArray[np.int64]:
    """Shape (n,), 0 or 1."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise InputError(
            f"{part}_labels of {path.name} give an image several labels",
            expected="one label of 0 or 1 an image; several labels are not supported",
            got=f"shape {_written(labels.shape)}",
            remedy="write a .npz file with the one label to predict",
        )
    levels = np.unique(labels).tolist()
    if not set(levels) <= {0, 1}:
        raise InputError(
            f"{part}_labels of {path.name} are of more than two classes",
            expected="0 and 1: a study's outcome is binary, several classes are not supported",
            got=", ".join(map(str, levels[:12])),
            remedy="write a .npz file whose labels say of each image whether it is of the class to predict",
        )
    return labels.astype(np.int64)


def _array(path: Path, name: str) -> NDArray[np.generic]:
    """One array of whole numbers, from its own bytes: its header may claim no more than is there."""
    data = io.BytesIO(member(path, f"{name}.npy", MOST_BYTES))
    flaw = ""
    try:
        version = np.lib.format.read_magic(data)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(data)
        left = len(data.getbuffer()) - data.tell()
        if dtype.kind not in "uib":
            flaw = "Python objects, which are never unpickled" if dtype.hasobject else f"values of type {dtype}"
        elif int(np.prod(shape, dtype=object)) * dtype.itemsize != left:
            flaw = f"a header of shape {_written(shape)} and {left} bytes"
        else:
            data.seek(0)
            return np.asarray(np.load(data, allow_pickle=False))
    except ValueError as error:
        flaw = str(error).splitlines()[0]
    raise InputError(
        f"{name} of {path.name} is no array of whole numbers", got=flaw, remedy="give a file in MedMNIST's layout"
    )


def _written(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))
