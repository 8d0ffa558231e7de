"""Data: folders, torchvision's datasets, digits, objects like them, and what is wrong with them."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from waterline import train
from waterline.errors import Error, InvalidArgument
from waterline.train.batches import ValidationBatches, preparation
from waterline.train.distributed import Process

CPU = Process(0, 1, torch.device("cpu"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three classes of images of several sizes and kinds, 4 for training and 2 for validation each."""
    random = np.random.default_rng(0)
    for part, count in (("train", 4), ("val", 2)):
        for label, name in enumerate(("ant", "bee", "cat")):
            (tmp_path / "animals" / part / name).mkdir(parents=True)
            for index in range(count):
                pixels = random.integers(80 * label, 80 * label + 80, (20 + index, 30, 3), np.uint8)
                image = Image.fromarray(pixels).convert(("RGB", "L", "RGBA", "P")[index])
                image.save(tmp_path / "animals" / part / name / f"{index}.png")
    return tmp_path / "animals"


def test_a_folder(folder: Path) -> None:
    data = train.open_data(str(folder), 24)
    assert (data.name, data.classes, len(data.train), len(data.val)) == ("animals", ("ant", "bee", "cat"), 12, 6)
    images, labels = next(iter(ValidationBatches(data, 6, CPU)))
    assert images.shape == (6, 3, 24, 24)
    assert labels.tolist() == [0, 0, 1, 1, 2, 2]
    means = images.mean((1, 2, 3))
    assert means[0] < means[2] < means[4]  # classes are of growing brightness
    assert train.open_data(str(folder)).image_size == 224


@pytest.mark.parametrize("missing", ["train", "val"])
def test_a_folder_without_a_part(folder: Path, missing: str) -> None:
    (folder / missing).rename(folder / "elsewhere")
    with pytest.raises(InvalidArgument, match=missing):
        train.open_data(str(folder))


def test_folders_without_classes_or_images(folder: Path) -> None:
    (folder / "val" / "dog").mkdir()
    with pytest.raises(InvalidArgument, match="dog"):
        train.open_data(str(folder))
    (folder / "train" / "dog").mkdir()
    Image.new("RGB", (8, 8)).save(folder / "val" / "dog" / "0.png")
    with pytest.raises(InvalidArgument, match="dog"):
        train.open_data(str(folder))
    Image.new("RGB", (8, 8)).save(folder / "train" / "dog" / "0.png")
    assert len(train.open_data(str(folder)).classes) == 4
    (folder / "val" / "dog").rename(folder / "val" / "eel")
    with pytest.raises(InvalidArgument, match="differ, in 'dog'"):
        train.open_data(str(folder))


def test_a_folder_with_nothing_in_it(tmp_path: Path) -> None:
    for part in ("train", "val"):
        (tmp_path / part).mkdir()
    with pytest.raises(InvalidArgument, match="class") as raised:
        train.open_data(str(tmp_path))
    assert "CLASS" in raised.value.hint


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_cannot_be_read(folder: Path, workers: int) -> None:
    (folder / "val" / "bee" / "1.png").write_bytes(b"not an image")
    data = train.open_data(str(folder), 24)
    with pytest.raises(InvalidArgument, match=r"bee.1\.png cannot be read"):
        list(ValidationBatches(data, 2, CPU, workers))


def test_digits(all_digits: train.Data) -> None:
    assert (len(all_digits.train), len(all_digits.val)) == (1437, 360)
    counts = np.bincount([all_digits.val[index][1] for index in range(360)])
    assert counts.min() >= 34
    assert not all_digits.is_mirrorable
    image, label = all_digits.train[0]
    assert (image.dtype, image.shape) == (torch.uint8, (1, 16, 16))
    assert 0 <= label < 10
    assert image.max() > 200
    again = train.digits(16)
    assert all(torch.equal(all_digits.train[index][0], again.train[index][0]) for index in range(20))


def test_a_part_of_the_data(all_digits: train.Data) -> None:
    data = all_digits.limited(100)
    assert (len(data.train), len(data.val), data.name) == (100, 25, "digits:100")
    assert len({data.train[index][1] for index in range(100)}) == 10
    assert len(all_digits.limited(5000).train) == 1437


def test_a_dataset_of_torchvision(tmp_path: Path) -> None:
    """MNIST's own files, with 20 and 10 images in them."""
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    random = np.random.default_rng(0)
    for part, count in (("train", 20), ("t10k", 10)):
        header = struct.pack(">4i", 0x0803, count, 28, 28)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(header + random.bytes(count * 28 * 28))
        labels = bytes(index % 10 for index in range(count))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 0x0801, count) + labels)
    data = train.open_data("mnist", root=tmp_path / "data")
    assert (data.name, len(data.train), len(data.val), len(data.classes)) == ("MNIST", 20, 10, 10)
    assert preparation(data)(data.train[0][0]).shape == (3, 32, 32)
    assert train.open_data("MNIST", 48, tmp_path / "data").image_size == 48


def test_a_dataset_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="CIFAR10 is not in") as raised:
        train.open_data("CIFAR10", root=tmp_path)
    assert "--download" in raised.value.hint


def test_a_download_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*arguments: object, **named: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", refused)
    with pytest.raises(Error, match="cannot be downloaded") as raised:
        train.open_data("CIFAR10", root=tmp_path, is_downloading=True)
    assert not isinstance(raised.value, InvalidArgument)


def test_names_that_mean_nothing(tmp_path: Path) -> None:
    for name, hint in (("cifar11", "CIFAR10"), ("digit", "digits"), ("no/such/folder", "train/")):
        with pytest.raises(InvalidArgument, match=name) as raised:
            train.open_data(name)
        assert hint in raised.value.hint
    (tmp_path / "file").touch()
    with pytest.raises(InvalidArgument, match="is a file"):
        train.open_data(str(tmp_path / "file"))


class Own:
    """Any object with items: here float images of one channel, or of bytes (h, w, c)."""

    def __init__(self, count: int, label: int = 1, is_bytes: bool = False) -> None:
        self._count, self._label, self._is_bytes = count, label, is_bytes

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> tuple[object, int]:
        if self._is_bytes:
            return np.full((20, 24, 3), 128, np.uint8), self._label
        return torch.full((1, 20, 24), 128 / 255), self._label


def test_an_object_like_a_dataset() -> None:
    floats, bytes_ = (
        next(iter(ValidationBatches(train.Data(own, own, ("a", "b"), 16), 4, CPU)))
        for own in (Own(4), Own(4, is_bytes=True))
    )
    assert floats[0].shape == (4, 3, 16, 16)
    assert torch.allclose(floats[0], bytes_[0], atol=1e-5)


def test_mistakes_in_own_data() -> None:
    for images, classes, size, words in (
        (Own(0), ("a", "b"), 16, "no training images"),
        (Own(4), ("a",), 16, "1 classes"),
        (Own(4), ("a", "b"), 0, "image_size"),
    ):
        with pytest.raises(InvalidArgument, match=words):
            train.Data(images, Own(4), classes, size)
    data = train.Data(Own(4), Own(4, label=2), ("a", "b"), 16)
    with pytest.raises(InvalidArgument, match="label 2 of 2 classes"):
        list(ValidationBatches(data, 2, CPU))
