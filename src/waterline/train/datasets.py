"""Data to train on: a folder, a dataset of torchvision, scikit-learn's digits, or any object with images and labels."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from waterline.errors import Error, InvalidArgument
from waterline.train import vision

FOLDER_IMAGE_SIZE = 224
SMALL_IMAGE_SIZE = 96  # up to this height and width, `Recipe.small` is the better beginning


class Dataset(Protocol):
    """Images with labels: a dataset of torchvision, or anything like it.

    An item is (image, label): an image of Pillow, bytes of (h, w, c), or a tensor (c, h, w), uint8 or floats of 0 to 1;
    the label a whole number from 0 on.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[Any, Any]: ...


@dataclass(frozen=True)
class Data:
    """What a network is trained on and judged by.

    Attributes:
        train, val: the images that are learned from, and those that accuracy is measured on.
        classes: their names, in the order of the labels.
        image_size: height and width that the network gets; images of other sizes are scaled and cropped.
        name: for people, and for a checkpoint to know its data by.
        is_mirrorable: whether a mirrored image is still of its class, which is not so for digits.

    Raises:
        InvalidArgument: no images, no classes, or no size.
    """

    train: Dataset
    val: Dataset
    classes: Sequence[str]
    image_size: int
    name: str = "data"
    is_mirrorable: bool = True

    def __post_init__(self) -> None:
        for part, images in (("training", self.train), ("validation", self.val)):
            if len(images) == 0:
                raise InvalidArgument(f"{self.name} has no {part} images", "give some of each class")
        if len(self.classes) < 2:
            raise InvalidArgument(f"{self.name} has {len(self.classes)} classes", "at least 2 are needed")
        if self.image_size < 1:
            raise InvalidArgument(f"image_size is {self.image_size}", "give the height and width in pixels")

    @property
    def is_small(self) -> bool:
        return self.image_size <= SMALL_IMAGE_SIZE

    def limited(self, count: int) -> Data:
        """With at most so many images for training and a quarter of that for validation, drawn once and for all."""
        return Data(
            _part(self.train, count),
            _part(self.val, max(1, count // 4)),
            self.classes,
            self.image_size,
            f"{self.name}:{count}",
            self.is_mirrorable,
        )


def _part(images: Dataset, count: int) -> Dataset:
    if count >= len(images):
        return images
    chosen = np.random.default_rng(0).permutation(len(images))[:count]
    part: Dataset = torch.utils.data.Subset(images, sorted(chosen.tolist()))
    return part


@dataclass(frozen=True)
class _Named:
    """A dataset of torchvision: what its two parts are asked for with, its classes where it does not name them."""

    train: dict[str, Any]
    val: dict[str, Any]
    image_size: int = 224
    classes: int = 0
    is_mirrorable: bool = True


_BOOL = ({"train": True}, {"train": False})
_TEST = ({"split": "train"}, {"split": "test"})
_NAMED = {
    "MNIST": _Named(*_BOOL, 32, is_mirrorable=False),
    "FashionMNIST": _Named(*_BOOL, 32),
    "KMNIST": _Named(*_BOOL, 32, is_mirrorable=False),
    "QMNIST": _Named(*_BOOL, 32, is_mirrorable=False),
    "USPS": _Named(*_BOOL, 32, 10, is_mirrorable=False),
    "CIFAR10": _Named(*_BOOL, 32),
    "CIFAR100": _Named(*_BOOL, 32),
    "SVHN": _Named(*_TEST, 32, 10, is_mirrorable=False),
    "STL10": _Named(*_TEST, 96),
    "GTSRB": _Named(*_TEST, 48, 43, is_mirrorable=False),
    "DTD": _Named({"split": "train"}, {"split": "val"}),
    "Food101": _Named(*_TEST),
    "Flowers102": _Named({"split": "train"}, {"split": "val"}, classes=102),
    "FGVCAircraft": _Named({"split": "trainval"}, {"split": "test"}),
    "OxfordIIITPet": _Named({"split": "trainval"}, {"split": "test"}),
    "Imagenette": _Named({"split": "train"}, {"split": "val"}),
}


def names() -> tuple[str, ...]:
    """What `open_data` accepts beside a folder."""
    return ("digits", *_NAMED)


def open_data(
    source: str, image_size: int | None = None, root: str | Path = "data", is_downloading: bool = False
) -> Data:
    """The data that a user names.

    Args:
        source: a folder with `train/CLASS/*` and `val/CLASS/*`, "digits", or the name of a dataset of torchvision.
        image_size: height and width for the network; None: 224 for folders, else the dataset's own.
        root: the folder of torchvision's datasets. is_downloading: whether one that is not there is fetched.

    Raises:
        InvalidArgument: no such folder or dataset, or nothing to learn in it.
    """
    if Path(source).is_dir():
        return from_folder(source, image_size or FOLDER_IMAGE_SIZE)
    if source.lower() == "digits":
        return digits(image_size or 32)
    known = {name.lower(): name for name in names()}
    if source.lower() in known:
        return _from_torchvision(known[source.lower()], image_size, Path(root), is_downloading)
    if Path(source).exists():
        raise InvalidArgument(f"{source!r} is a file", "give a folder with the sub-folders train and val")
    close = difflib.get_close_matches(source.lower(), known, n=1)
    hint = f"did you mean {known[close[0]]}?" if close else "give a folder with train/ and val/, or one of "
    raise InvalidArgument(f"there is no folder and no dataset {source!r}", hint if close else hint + ", ".join(names()))


def from_folder(folder: str | Path, image_size: int = FOLDER_IMAGE_SIZE) -> Data:
    """Images in `folder/train/CLASS/` and `folder/val/CLASS/`, as ImageNet is usually stored.

    Raises:
        InvalidArgument: a folder that is not there, no classes, a class without images, classes that differ.
    """
    parts = []
    for part in ("train", "val"):
        path = Path(folder) / part
        if not path.is_dir():
            raise InvalidArgument(
                f"there is no folder {str(path)!r}", "images are expected in train/CLASS/ and val/CLASS/"
            )
        try:
            parts.append(vision.module("torchvision.datasets").ImageFolder(str(path)))
        except FileNotFoundError as error:  # which says which class has no image, in several lines
            what = str(error).split(". ")[0].splitlines()[0]
            raise InvalidArgument(what, f"images are expected in {path}/CLASS/") from error
    train, val = parts
    if train.classes != val.classes:
        other = sorted(set(train.classes) ^ set(val.classes))[0]
        raise InvalidArgument(
            f"the classes of {folder}/train and {folder}/val differ, in {other!r}",
            "give both the same sub-folders",
        )
    return Data(train, val, tuple(train.classes), image_size, Path(folder).resolve().name)


class _Pixels:
    """Images in memory: (n, h, w) or (n, c, h, w) of uint8."""

    def __init__(self, images: torch.Tensor, labels: np.ndarray) -> None:
        self._images, self._labels = images, labels

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int, /) -> tuple[Any, Any]:
        return self._images[index], int(self._labels[index])


def digits(image_size: int = 32) -> Data:
    """scikit-learn's 1797 handwritten digits of 8x8, enlarged: four fifths for training, every class in proportion.

    Raises:
        InvalidArgument: scikit-learn is not installed.
    """
    try:
        datasets = importlib.import_module("sklearn.datasets")
        selection = importlib.import_module("sklearn.model_selection")
    except ImportError as error:
        raise InvalidArgument(
            "the digits come with scikit-learn, which is not installed", "pip install 'waterline[train]'"
        ) from error
    pixels, labels = datasets.load_digits(return_X_y=True)
    images = torch.from_numpy(pixels.reshape(-1, 1, 8, 8)).float() * (255 / 16)
    size = (image_size, image_size)
    images = torch.nn.functional.interpolate(images, size, mode="bicubic", align_corners=False)
    images = images.round().clamp(0, 255).to(torch.uint8)
    train, val = selection.train_test_split(np.arange(len(labels)), test_size=0.2, random_state=0, stratify=labels)
    return Data(
        _Pixels(images[train], labels[train]),
        _Pixels(images[val], labels[val]),
        tuple("0123456789"),
        image_size,
        "digits",
        is_mirrorable=False,
    )


def _from_torchvision(name: str, image_size: int | None, root: Path, is_downloading: bool) -> Data:
    named = _NAMED[name]
    build = getattr(vision.module("torchvision.datasets"), name)
    parts = []
    for which in (named.train, named.val):
        try:
            parts.append(build(str(root), **which, download=is_downloading))
        except ModuleNotFoundError as error:  # SciPy, for some
            raise InvalidArgument(f"{name} needs {error.name}", f"pip install {error.name}") from error
        except (RuntimeError, OSError) as error:
            what = " ".join(str(error).split())
            if is_downloading:
                raise Error(f"{name} cannot be downloaded: {what}", "is there a network?") from error
            raise InvalidArgument(
                f"{name} is not in {root}: {what}", "--download fetches it, --root says where"
            ) from error
    names_of_classes = getattr(parts[0], "classes", None) or [str(label) for label in range(named.classes)]
    train, val = parts
    size = image_size or named.image_size
    return Data(train, val, tuple(map(str, names_of_classes)), size, name, named.is_mirrorable)
