"""Checks against float64: where the bound of a layer comes from."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper

from waterline import models
from waterline.bench import truth
from waterline.bench.truth import check_layer
from waterline.reference import conv2d
from waterline.spec import ConvSpec

ALGORITHMS = ["winograd:f2x2", "winograd:f4x4", "winograd:f6x6", "fft", "indirect"]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_windows_that_see_only_padding(algorithm: str):
    """Their outputs are 0; algorithms that mix the pixels of a tile leave the rounding of others there."""
    spec = ConvSpec.parse("n1_c8_h10_w10_k8_r3_s3_st1_pd3_dl1_g1_f32")
    check = check_layer(spec, algorithm)
    assert check.algorithm == algorithm
    assert check.comparison.is_within, str(check.comparison)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("centre", [0.0, 1e-5, 1.0])
def test_an_image_of_one_pixel(algorithm: str, centre: float, monkeypatch: pytest.MonkeyPatch):
    """It meets the middle tap only; those that mix pixels leave the rounding of all taps in the result."""
    spec = ConvSpec.parse("n1_c8_h1_w1_k8_r3_s3_st1_pd1_dl1_g1_f32")
    monkeypatch.setattr(models, "build_layer", lambda spec: with_centre(real(spec), centre))
    check = check_layer(spec, algorithm)
    assert check.comparison.is_within, str(check.comparison)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_image_of_one_pixel_that_is_wrong(algorithm: str, monkeypatch: pytest.MonkeyPatch):
    """The bound of such a layer is not so wide that it passes everything: a thousandth of the result is noticed."""
    spec = ConvSpec.parse("n1_c8_h1_w1_k8_r3_s3_st1_pd1_dl1_g1_f32")
    monkeypatch.setattr(truth, "conv2d", lambda x, weight, bias, spec: 1.001 * conv2d(x, weight, bias, spec))
    assert not check_layer(spec, algorithm).comparison.is_within


real = models.build_layer


def with_centre(model: ModelProto, factor: float) -> ModelProto:
    """The layer with its middle taps multiplied."""
    (tensor,) = model.graph.initializer
    weight = np.array(numpy_helper.to_array(tensor))
    weight[:, :, 1, 1] *= factor
    tensor.CopyFrom(numpy_helper.from_array(weight, tensor.name))
    return model
