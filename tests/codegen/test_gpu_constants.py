"""Compile-time arguments of GPU kernels: Triton's cache on disk knows a kernel by their texts, so these tell any two
apart."""

from __future__ import annotations

import itertools
import math

from waterline.spec import Activation, Epilogue

ACTIVATIONS = [
    None,
    *(Activation(kind) for kind in ("relu", "silu", "gelu")),
    *(Activation("clip", (0.0, top)) for top in (6.0, math.nextafter(6.0, 7.0), 6.0000005, math.inf)),
    *(Activation("leaky_relu", (slope,)) for slope in (0.1, 0.1000000015, 1e-30)),
    Activation("hard_sigmoid", (1 / 6, 0.5)),
    Activation("hard_sigmoid", (0.166667, 0.5)),
]


def test_activations_have_texts_of_their_own() -> None:
    texts = [str(each) for each in ACTIVATIONS]
    assert len(set(texts)) == len(texts)
    assert str(Activation("clip", (0.0, 6.0))) == "clip(0,6)"


def test_epilogues_that_compute_something_else_have_texts_of_their_own() -> None:
    """An activation before nothing that is added, and one behind it, are the same."""
    found: dict[str, tuple[object, ...]] = {}
    for bias, before, residual, after in itertools.product((False, True), ACTIVATIONS, (False, True), ACTIVATIONS):
        steps = (bias, before, "add", after) if residual else (bias, *(each for each in (before, after) if each))
        text = str(Epilogue(bias, before, residual, after))
        assert found.setdefault(text, steps) == steps, text
