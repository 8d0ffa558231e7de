"""Preprocessing: size, crop and normalisation."""

from __future__ import annotations

import numpy as np
import pytest

from waterline.cli import image

pytest.importorskip("PIL")


def test_one_colour_is_normalised() -> None:
    pixels = np.full((50, 80, 3), (255, 0, 128), np.uint8)
    x = image.prepare(pixels, 24, 24)
    assert x.shape == (1, 3, 24, 24)
    assert x.dtype == np.float32
    expected = (np.array([1.0, 0.0, 128 / 255]) - image.MEAN) / image.DEVIATION
    np.testing.assert_allclose(x[0], np.broadcast_to(expected[:, None, None], (3, 24, 24)), rtol=1e-5)


@pytest.mark.parametrize("shape", [(30, 300), (300, 30), (224, 224), (256, 256), (1, 1)])
def test_the_crop_is_the_middle(shape: tuple[int, int]) -> None:
    """A gradient along both axes: the mean of the crop is the gradient's middle."""
    h, w = shape
    ramp = np.linspace(0, 255, h)[:, None] / 2 + np.linspace(0, 255, w)[None] / 2
    x = image.prepare(np.repeat(ramp[..., None], 3, axis=2).astype(np.uint8), 224, 224)
    assert x.shape == (1, 3, 224, 224)
    if min(shape) > 1:
        middle = x.mean(axis=(0, 2, 3)) * image.DEVIATION + image.MEAN
        np.testing.assert_allclose(middle, 0.5, atol=0.02)


def test_the_photograph() -> None:
    pytest.importorskip("sklearn")
    x = image.photograph(64, 48)
    assert x.shape == (1, 3, 64, 48)
    assert x.std() > 0.5
