"""Fused blocks compute what their layers compute alone, to the bit, on guarded memory; and say why they cannot.

Against float64 within the bound of the network, and against the same network without blocks. Every strip height, band,
batch and number of threads gives the same bits.
"""

from __future__ import annotations

import pytest

from algorithms.block_networks import NETWORKS, basic, inverted_residual, readers, separable, stem
from algorithms.blocks import check
from algorithms.layers import LOCAL, machine_of, machines

OTHER_ISAS = [parameter for parameter in machines() if parameter.values[0] != LOCAL.isa]


# ---- kinds of layers ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", NETWORKS)
def test_every_kind_of_block(name: str, forked):
    """Buffers with room to spare, and without any."""
    make, layers = NETWORKS[name]
    number = list(NETWORKS).index(name)
    graph, rows = make(2, 9, 7), (1, 2, 3)[number % 3]
    check(graph, LOCAL, forked, [rows], layers=layers, bands=[1, 2, 9], window_strips=1 + 2 * (number % 2))


@pytest.mark.parametrize("name", ["conv_first", "inverted_down", "conv_next", "bottleneck", "stem", "operators"])
@pytest.mark.parametrize("isa", OTHER_ISAS)
def test_every_kind_of_vector(isa: str, name: str, forked):
    make, layers = NETWORKS[name]
    check(make(1, 7, 5), machine_of(isa), forked, [2], layers=layers, bands=[1, 2])


# ---- strips, bands, images, channels --------------------------------------------------------------------------------
@pytest.mark.parametrize("make", [readers, basic], ids=lambda make: make.__name__)
def test_every_height_of_strips(make, forked):
    check(make(1, 6, 4), LOCAL, forked, range(1, 7), bands=range(1, 7), window_strips=2)


@pytest.mark.parametrize(
    ("make", "size"),
    [
        (inverted_residual, (2, 2)),
        (separable, (4, 1)),
        (separable, (13, 11)),
        (stem, (6, 1)),
        (stem, (7, 5)),
        (stem, (13, 11)),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_sizes_of_images(make, size: tuple[int, int], forked):
    check(make(3, *size), LOCAL, forked, [1 + size[1] % 3], bands=[1, 3])


LANES = LOCAL.lanes()


@pytest.mark.parametrize("channels", sorted({1, 3, LANES - 1, LANES, LANES + 1}))
def test_numbers_of_channels(channels: int, forked):
    check(inverted_residual(2, 5, 3, c=channels), LOCAL, forked, [2], layers=3, bands=[2])
