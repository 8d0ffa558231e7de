"""Checks against float64: where the bound of a layer comes from."""

from __future__ import annotations

import pytest

from waterline.bench.truth import check_layer
from waterline.spec import ConvSpec


@pytest.mark.parametrize("algorithm", ["winograd:f2x2", "winograd:f4x4", "winograd:f6x6", "indirect"])
def test_windows_that_see_only_padding(algorithm: str):
    """Their outputs are 0; algorithms that mix the pixels of a tile leave the rounding of others there."""
    spec = ConvSpec.parse("n1_c8_h10_w10_k8_r3_s3_st1_pd3_dl1_g1_f32")
    check = check_layer(spec, algorithm)
    assert check.algorithm == algorithm
    assert check.comparison.is_within, str(check.comparison)
