"""Images in MedMNIST's layout: every pixel where the study wants it, and nothing unpickled."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from command import fedward, good
from downloads import downloaded
from federation import heart_manifest

from fedward.privacy.errors import InputError, UsageError
from fedward.simulations.medmnist import PARTS, read_images
from fedward.simulations.sources import read_sites
from fedward.study.examples import example_folder
from fedward.study.manifest import ImageFeature, Manifest, load
from fedward.study.models import build

MANIFEST = load(example_folder("pneumonia") / "study.toml")


def of_shape(*shape: int) -> Manifest:
    image = ImageFeature(type="image", column="image", shape=shape, bounds=(0.0, 255.0))
    return MANIFEST.model_copy(update={"features": (image,)})


def arrays(*shape: int, classes: int = 2, dtype: type = np.uint8) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    found = {}
    for part, number in zip(PARTS, (40, 10, 20), strict=True):
        found[f"{part}_images"] = generator.integers(0, 256, (number, *shape)).astype(dtype)
        found[f"{part}_labels"] = generator.integers(0, classes, (number, 1)).astype(np.uint8)
    return found


def saved(folder: Path, found: dict[str, np.ndarray]) -> Path:
    path = folder / "images.npz"
    np.savez_compressed(path, **found)
    return path


def test_every_pixel_and_label_of_the_file_is_there() -> None:
    path = downloaded("pneumonia/pneumoniamnist.npz")
    frame = read_images(path, MANIFEST)
    with np.load(path) as raw:
        images = np.concatenate([raw[f"{part}_images"] for part in PARTS])
        labels = np.concatenate([raw[f"{part}_labels"] for part in PARTS])
    assert frame.index.is_unique
    assert len(frame) == len(images) == 3166
    np.testing.assert_array_equal(frame["pneumonia"], labels[:, 0])
    hospitals = read_sites(f"medmnist:{path}", MANIFEST, "iid:4").hospitals
    places = {patient: row for row, patient in enumerate(frame.index)}
    for data in hospitals.values():
        wanted = images[[places[patient] for patient in data.patients]].reshape(len(data), -1)
        np.testing.assert_allclose(data.inputs, wanted / 127.5 - 1, atol=1e-6)


def test_coloured_images_become_channel_first(tmp_path: Path) -> None:
    found = arrays(5, 4, 3)
    manifest = of_shape(3, 5, 4)
    data = read_sites(f"medmnist:{saved(tmp_path, found)}", manifest, "iid:1").hospitals["site-1"]
    row = data.patients.index("val-7")
    pixels = data.inputs[row].reshape(3, 5, 4)
    for channel in range(3):
        np.testing.assert_allclose(pixels[channel], found["val_images"][7, :, :, channel] / 127.5 - 1, atol=1e-6)
    assert build(manifest) is not None


def test_the_study_is_simulated_from_the_command_line(tmp_path: Path) -> None:
    folder = tmp_path / "example"
    good("example", "pneumonia", folder)
    text = (folder / "study.toml").read_text().replace("rounds = 40", "rounds = 2").replace("28, 28", "8, 8")
    (folder / "study.toml").write_text(text)
    path = saved(tmp_path, arrays(8, 8))
    ran = fedward("simulate", folder, "--sites", f"medmnist:{path}", "--partition", "labels:3:5", "--seeds", 1)
    assert ran.code == 0, ran
    assert "70 images, each counted as a patient" in ran.err
    assert "pneumonia-cnn" in ran.out


def test_images_need_a_partition(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="name no hospitals"):
        read_sites(f"medmnist:{saved(tmp_path, arrays(28, 28))}", MANIFEST)


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    def refused(found: dict[str, np.ndarray], words: str, manifest: Manifest = MANIFEST) -> None:
        with pytest.raises(InputError, match=words):
            read_images(saved(tmp_path, found), manifest)

    right = arrays(28, 28)
    refused(arrays(64, 64), "do not fit the study's image.*1 × 28 × 28.*1 × 64 × 64")
    refused(arrays(28, 28, 3), "3 × 28 × 28")
    refused(arrays(28, 28, 28, 1), "no flat images")
    refused(arrays(28, 28, classes=9), "more than two classes.*not supported")
    refused(right | {"val_labels": np.zeros((10, 14), np.uint8)}, "several labels are not supported")
    refused(right | {"test_labels": np.zeros((19, 1), np.uint8)}, "20 test_images and 19 test_labels")
    refused(right | {"train_images": np.full((40, 28, 28), 256, np.int32)}, "outside the study's bounds")
    refused(right | {"train_images": np.zeros((40, 28, 28))}, "no array of whole numbers.*float64")
    refused(right | {"train_labels": np.array([0.5] * 40)}, "no array of whole numbers")
    refused({name: one for name, one in right.items() if name != "val_images"}, r"no file val_images\.npy")
    refused(right, "no study of images alone", heart_manifest())
    with pytest.raises(InputError, match="no images at"):
        read_images(tmp_path / "none.npz", MANIFEST)


def test_objects_are_never_unpickled(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "sprung",))  # type: ignore[return-value]

    found = arrays(28, 28) | {"train_images": np.array([Trap()] * 40, dtype=object)}
    with pytest.raises(InputError, match="never unpickled"):
        read_images(saved(tmp_path, found), MANIFEST)
    assert not (tmp_path / "sprung").exists()


def test_a_header_that_claims_more_than_is_there_is_refused_before_memory_is_asked_for(tmp_path: Path) -> None:
    path = saved(tmp_path, arrays(28, 28))
    with zipfile.ZipFile(path) as opened:
        members = {name: opened.read(name) for name in opened.namelist()}
    for shape in ((10**12, 28, 28), (0, 10**9, 28)):
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
        with zipfile.ZipFile(path, "w") as opened:
            for name, data in members.items():
                opened.writestr(name, header.getvalue() + b"123" if name == "train_images.npy" else data)
        with pytest.raises(InputError, match="a header of shape"):
            read_images(path, MANIFEST)
