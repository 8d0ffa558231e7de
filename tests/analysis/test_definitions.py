"""The definitions on figures made up by hand: docs/analysis.md has the formulas."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waterline.analysis import Analysis, BlockAnalysis, Causes, LayerAnalysis

PEAK = 100e9  # operations a second: 100 a nanosecond
RATE = 10e9  # bytes a second: 10 a nanosecond, so the ridge is at 10 operations a byte


def layer(name: str, flops: int, moved: int, time_ns: float, executed: float | None = None) -> LayerAnalysis:
    executed = flops if executed is None else executed
    return LayerAnalysis(
        name=name,
        shape="",
        algorithm="indirect" if flops else "Pool",
        block=0,
        flops=flops,
        executed_flops=executed,
        bytes=moved,
        bound_ns=max(flops / 100, moved / 10),
        time_ns=time_ns,
        predicted_ns=time_ns,
        peak_flops_per_s=PEAK,
        causes=Causes.of(time_ns, executed / 100, moved / 10),
    )


# Arithmetic bound; memory bound at a quarter of the ridge; fast algorithm; moves data only.
LAYERS = (
    layer("a", 100_000, 5_000, 1_250),
    layer("b", 20_000, 8_000, 1_000),
    layer("c", 100_000, 5_000, 800, executed=40_000),
    layer("d", 0, 2_000, 400),
)
BLOCKS = (
    BlockAnalysis("a", (0,), 100_000, 5_000, 1_250, 1_000, 5_000, 1_000, PEAK, 100_000, LAYERS[0].causes),
    BlockAnalysis(
        "bcd",
        (1, 2, 3),
        120_000,
        15_000,
        2_200,
        2_000,
        4_000,
        1_200,
        PEAK,
        60_000,
        Causes.sum(each.causes for each in LAYERS[1:]),
    ),
)
NETWORK = Analysis("hand", "made", 1, 2, True, PEAK, {"l3": 2 * RATE, "dram": RATE}, 3_450, LAYERS, BLOCKS)


def test_a_layer():
    a, b, c, d = LAYERS
    assert [each.operational_intensity for each in LAYERS] == [20, 2.5, 20, 0]
    assert [each.attainable_efficiency for each in LAYERS] == [1, 0.25, 1, 0]
    assert a.computational_efficiency == a.effective_efficiency == 0.8
    assert b.computational_efficiency == 0.2
    assert (c.computational_efficiency, c.effective_efficiency) == (1.25, 0.5)  # the fast algorithm is credited, its
    assert (a.lost_ns, b.lost_ns, c.lost_ns, d.lost_ns) == (250, 200, 0, 200)  # units are half idle


def test_attainable_efficiency_is_intensity_over_the_ridge_below_it():
    for each in LAYERS[:3]:
        assert each.attainable_efficiency == min(1, each.operational_intensity / NETWORK.ridge)


def test_a_network():
    assert NETWORK.ridge == 10
    assert (NETWORK.flops, NETWORK.executed_flops, NETWORK.bytes) == (220_000, 160_000, 20_000)
    assert NETWORK.ideal_ns == 2_200
    assert NETWORK.bound_ns == 1_000 + 800 + 1_000 + 200
    assert NETWORK.waterline == pytest.approx(220_000 / (100 * 3_000))
    assert (NETWORK.fused_bound_ns, NETWORK.fused_waterline) == (2_200, 1)
    assert NETWORK.computational_efficiency == pytest.approx(220_000 / (100 * 3_450))
    assert NETWORK.effective_efficiency == pytest.approx(160_000 / (100 * 3_450))
    # latency = operations / (peak x efficiency)
    assert NETWORK.flops * 1e9 / (PEAK * NETWORK.computational_efficiency) == pytest.approx(NETWORK.time_ns)


def test_a_block():
    block = BLOCKS[1]
    assert block.attainable_efficiency == 0.6
    assert block.fused_attainable_efficiency == 1
    assert block.computational_efficiency == pytest.approx(120 / 220)


def test_causes():
    assert LAYERS[0].causes == Causes(1_000, 0, 250)  # memory is hidden behind arithmetic
    assert LAYERS[1].causes == Causes(200, 600, 200)
    assert LAYERS[2].causes == Causes(400, 100, 300)
    assert LAYERS[3].causes == Causes(0, 200, 200)
    assert NETWORK.causes == Causes(1_600, 900, 950)


nanoseconds = st.floats(0, 1e12)


@given(nanoseconds, nanoseconds, nanoseconds)
def test_causes_add_up_and_none_is_negative(time_ns: float, arithmetic_ns: float, memory_ns: float):
    causes = Causes.of(time_ns, arithmetic_ns, memory_ns)
    assert causes.time_ns == pytest.approx(time_ns, abs=1e-3)
    assert min(causes.arithmetic_ns, causes.memory_ns, causes.overhead_ns) >= 0
    assert causes.arithmetic_ns <= arithmetic_ns
    assert causes.memory_ns <= memory_ns


def test_json_has_what_is_derived():
    plain = json.loads(NETWORK.to_json())
    assert plain["totals"]["waterline"] == NETWORK.waterline
    assert plain["totals"]["causes"] == {"arithmetic_ns": 1_600, "memory_ns": 900, "overhead_ns": 950}
    assert plain["layers"][2]["computational_efficiency"] == 1.25
    block = plain["blocks"][1]
    assert block["fused_attainable_efficiency"] == 1
    assert (block["operational_intensity"], block["fused_operational_intensity"]) == (8, 30)
    assert block["effective_efficiency"] == pytest.approx(60 / 220)
    assert block["causes"] == {"arithmetic_ns": 600, "memory_ns": 900, "overhead_ns": 700}


def test_the_summary_has_the_formula_with_its_numbers():
    text = str(NETWORK)
    assert "latency = operations / (peak x efficiency): 0.00022 GFLOP / (100 GFLOP/s x 63.8 %) = 0.00345 ms" in text
    assert "waterline: 73.3 % of peak" in text
    assert "with every block fused: 100.0 % of peak" in text
    assert "46.4 % arithmetic, 26.1 % memory beyond it, 27.5 % overhead" in text
    assert "measured" in text
    assert "predicted" not in text


def test_nothing_is_divided_by_zero():
    empty = Analysis("none", "made", 0, 1, False, PEAK, {"dram": RATE}, 0.0, (), ())
    assert empty.waterline == empty.computational_efficiency == empty.fused_waterline == 0
    assert "0.0 %" in str(empty)
    nothing = layer("e", 0, 0, 0.0)
    assert nothing.operational_intensity == nothing.attainable_efficiency == nothing.lost_ns == 0
