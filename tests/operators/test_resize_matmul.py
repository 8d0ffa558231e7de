"""Resize in every mode and coordinate rule, and MatMul."""

from __future__ import annotations

import pytest

from waterline.graph.ops import COORDINATES, ROUNDINGS, MatMul, Resize

from .harness import LAYOUTS, MACHINES, Case, channel_counts, check


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_resize(mode: str, coordinates: str, layout: str) -> None:
    for factor in ({"size": (9, 4)}, {"scale": (0.6, 2.0)}, {"size": (1, 1)}, {"size": (5, 7)}):
        check(Case(Resize(mode, coordinates=coordinates, **factor), ((2, 18, 5, 7),), (layout,)))


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_rounding(rounding: str) -> None:
    check(Case(Resize("nearest", (7, 13), rounding=rounding), ((1, 3, 4, 6),)))


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.isa)
@pytest.mark.parametrize("channels", channel_counts())
def test_channels(channels: int, machine) -> None:
    for mode in ("nearest", "linear"):
        check(Case(Resize(mode, (8, 6)), ((2, channels, 4, 3),)), machine)
    check(Case(MatMul(), ((9, 13), (13, channels)), ("dense",)), machine, absolute=1e-5)


@pytest.mark.parametrize("layouts", [("dense", "dense"), ("dense", "scrambled"), ("scrambled", "dense")], ids="-".join)
@pytest.mark.parametrize(
    "shapes",
    [
        ((3, 4), (4, 5)),
        ((1, 1), (1, 1)),
        ((7, 33), (33, 17)),
        ((2, 30, 17), (2, 17, 50)),
        ((2, 3, 13, 8), (8, 40)),
        ((8,), (8, 5)),
        ((3, 8), (8,)),
        ((8,), (8,)),
        ((2, 3, 8), (8,)),
        ((2, 1, 5, 6), (3, 6, 7)),
        ((50, 64), (64, 200)),
        ((3, 0), (0, 4)),
    ],
)
def test_matmul(shapes, layouts) -> None:
    for output in ("dense", "scrambled"):
        check(Case(MatMul(), shapes, layouts, output), absolute=2e-5)
