"""Photographs as a network's input: the preprocessing that ImageNet's networks were trained with."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from waterline.errors import InvalidArgument

MEAN = np.array([0.485, 0.456, 0.406], np.float32)
DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)
RESIZED = 256 / 224  # the shorter side before cropping, of the crop
MOST_PIXELS = 1 << 28


def from_file(path: str, height: int, width: int) -> np.ndarray:
    """An image file as (1, 3, height, width).

    Raises:
        InvalidArgument: no such file, not an image, or Pillow is not installed.
    """
    pillow = _pillow()
    try:
        with pillow.open(path) as image:
            if image.width * image.height > MOST_PIXELS:
                raise InvalidArgument(
                    f"{path} has {image.width}x{image.height} pixels", f"at most {MOST_PIXELS} are read"
                )
            return prepare(np.asarray(image.convert("RGB")), height, width)
    except FileNotFoundError as error:
        raise InvalidArgument(f"there is no image {path!r}", "give the path of an image file") from error
    except IsADirectoryError as error:
        raise InvalidArgument(f"{path!r} is a directory", "give the path of an image file") from error
    except pillow.UnidentifiedImageError as error:
        raise InvalidArgument(f"{path!r} is not an image that Pillow can read", "JPEG and PNG are") from error
    except (pillow.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        raise InvalidArgument(f"{path!r} cannot be read: {error}", "is the file whole?") from error


def photograph(height: int, width: int) -> np.ndarray:
    """A photograph that comes with scikit-learn (a Chinese palace), as (1, 3, height, width).

    Raises:
        InvalidArgument: it is not installed.
    """
    _pillow()
    try:
        datasets = importlib.import_module("sklearn.datasets")
    except ImportError as error:
        raise InvalidArgument(
            "no image was given, and scikit-learn, which brings one, is not installed",
            "pass --image FILE or --random, or pip install scikit-learn",
        ) from error
    return prepare(datasets.load_sample_image("china.jpg"), height, width)


def prepare(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """(h, w, 3) bytes -> (1, 3, height, width): shorter side resized, centre cropped, normalised."""
    pillow = _pillow()
    h, w = pixels.shape[:2]
    factor = max(height * RESIZED / h, width * RESIZED / w)
    size = (max(width, round(w * factor)), max(height, round(h * factor)))
    resized = np.asarray(pillow.fromarray(pixels).resize(size, pillow.Resampling.BILINEAR), np.float32)
    top, left = (size[1] - height) // 2, (size[0] - width) // 2
    cropped = resized[top : top + height, left : left + width] / 255
    return np.ascontiguousarray(((cropped - MEAN) / DEVIATION).transpose(2, 0, 1)[None])


def _pillow() -> Any:
    try:
        return importlib.import_module("PIL.Image")
    except ImportError as error:
        raise InvalidArgument(
            "images are read by Pillow, which is not installed", "pip install 'waterline[image]', or pass --random"
        ) from error
