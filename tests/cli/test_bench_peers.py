"""`waterline bench --vs`: a peer that cannot run a network is left out, and that is said."""

from __future__ import annotations

from pathlib import Path

import pytest

SPEC = "n1_c16_h12_w12_k16_r3_s3_st1_pd1_dl1_g1_f32"


def test_ncnn_beside_ours(call) -> None:
    pytest.importorskip("ncnn")
    result = call("bench", "--conv", SPEC, "--vs", "ncnn", "--threads", "1", "--seconds", "0.05")
    assert result.returncode == 0
    assert "ncnn" in result.stdout
    assert result.stderr == ""


def test_a_batch_that_ncnn_does_not_take(call, small_model: Path) -> None:
    pytest.importorskip("ncnn")
    result = call("bench", small_model, "--vs", "ncnn", "--batch", "2", "--threads", "1", "--seconds", "0.05")
    assert result.returncode == 0
    assert "small: ncnn is left out: ncnn takes one image at a time" in result.stderr
    assert "ncnn" not in result.stdout
