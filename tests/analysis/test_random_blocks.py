"""Blocks of random networks: concatenations, slices, shuffles and squeezes in any order."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from planner.test_random_graphs import Drawing

from analysis.networks import predicted
from waterline.graph.passes import simplify
from waterline.machine import CATALOGUE

MACHINE = CATALOGUE[4]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.data())
def test_blocks_partition_the_steps_and_fusing_raises_nothing(data: st.DataObject):
    drawing = Drawing(data)
    for _ in range(data.draw(st.integers(3, 30), label="nodes")):
        drawing.node()
    analysis = predicted(simplify(drawing.graph()), MACHINE)
    assert [i for block in analysis.blocks for i in block.layers] == list(range(len(analysis.layers)))
    for block in analysis.blocks:
        assert block.fused_bytes <= block.bytes
        assert block.fused_bound_ns <= block.bound_ns * (1 + 1e-9)
        assert block.name
    assert len({block.name for block in analysis.blocks}) == len(analysis.blocks)
