"""`experiment maxdnn` on tiny layers: efficiency of rounds, bounds, memory, and the published figures beside."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
from listeners import Listener

from waterline.api import environment
from waterline.bench import layers, peers
from waterline.bench.experiments import maxdnn, maxdnn_layer
from waterline.bench.experiments.maxdnn_layer import OURS, PEER, Layer
from waterline.bench.experiments.maxdnn_paper import BATCH, LAYERS, NETWORKS, published
from waterline.bench.experiments.one_layer import Calls, efficiencies, in_rounds
from waterline.bench.timing import Protocol, Timing
from waterline.errors import InvalidArgument
from waterline.machine import Bandwidth
from waterline.report import experiment_figures
from waterline.report.experiments import tables
from waterline.spec import ConvSpec

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks" / "layers"
FULL = ConvSpec(1, 40, 9, 9, 24, 3, 3, pad=(1, 1, 1, 1))
FIRST = ConvSpec(1, 3, 20, 20, 16, 7, 7, stride=(2, 2), pad=(3, 3, 3, 3))
SHORT = Protocol(seconds=0.02, least_rounds=2, least_calls=1, burst_s=0.001)


def _has_peer() -> bool:
    try:
        peers.meter(PEER, maxdnn_layer.Task(maxdnn_layer.Workload.layer(FULL).model, {}, 1))
    except InvalidArgument:
        return False
    return True


# ---- layers and published figures -----------------------------------------------------------------------------------
def test_the_layers_are_those_of_the_networks() -> None:
    for network in NETWORKS:
        found = maxdnn.layers_of(network)
        assert [layer.spec for layer in found] == layers.read(FOLDER / f"{network}.txt")
    names = [name for layer in maxdnn.layers_of("vgg19") for name in layer.names]
    assert len(names) == len(set(names)) == 16
    assert set(layers.distinct("vgg16")) == set(layers.distinct("vgg19"))


def test_every_published_layer_is_one_of_ours() -> None:
    assert (*LAYERS, "vgg19") == NETWORKS
    for network, figures in LAYERS.items():
        specs = layers.distinct(network)
        assert [published(network, (s.c, s.p, s.k, s.r)) for s in specs] == list(figures)
        for figure in figures:
            assert 0 < figure.cudnn < figure.maxdnn < 1
    assert published("vgg19", (64, 224, 64, 3)) is None
    by_layer = {figure.layer: figure for figures in LAYERS.values() for figure in figures}
    assert by_layer["L5"].maxdnn == 0.963
    assert by_layer["L1"].maxdnn == 0.703
    assert by_layer["conv1"].cudnn == 0.325
    assert BATCH == 128


def test_grouped_layers_are_refused_in_one_line() -> None:
    with pytest.raises(InvalidArgument, match="has 32 groups") as raised:
        maxdnn.layers_of("mobilenet_v2")
    assert raised.value.hint == "the paper's networks are alexnet, overfeat, vgg19"


# ---- measuring ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("spec", [FULL, FIRST], ids=lambda spec: spec.id)
def test_a_layer(spec: ConvSpec) -> None:
    with_peer = _has_peer()
    machine, listener = environment.machine(), Listener()
    layer = Layer("tiny", ("a", "b"), spec)
    found = maxdnn_layer.measure(layer, 3, machine, 1, SHORT, listener, with_peer=with_peer)
    assert [record["variant"] for record in found] == ([OURS, PEER] if with_peer else [OURS])
    ours = found[0]
    assert 0 < ours["tile_efficiency"] < 1.5
    assert 0 < ours["of_tile"] < 1.5
    assert ours["algorithm"] == "indirect"
    assert ours["as_run"] == (spec.with_batch(3).id if spec == FULL else "n3_c3_h26_w26_k16_r7_s7_st2_pd0_dl1_g1_f32")
    for record in found:
        assert (record["batch"], record["threads"], record["layers"]) == (3, 1, ["a", "b"])
        assert record["flops"] == 3 * spec.flops
        assert record["least_bytes"] == spec.with_batch(3).least_bytes
        assert record["efficiency_p10"] <= record["computational_efficiency"] <= record["efficiency_p90"]
        assert 0 < record["computational_efficiency"] < 1.2
        assert record["attainable_efficiency"] <= 1
        assert record["is_memory_bound"] == (record["attainable_efficiency"] < 1)
        least_ms = 1e3 * record["flops"] / record["peak_flops_per_s"]
        assert record["bound_ms"] * record["attainable_efficiency"] == pytest.approx(least_ms)
        assert record["published"] is None
    assert listener.said == []


def test_memory_bound_follows_the_bandwidth() -> None:
    machine = replace(environment.machine(), l3_bytes=0, bandwidth=Bandwidth(1e9, 1e9, 1e6, 1e6))
    (slow,) = maxdnn_layer.measure(Layer("tiny", ("a",), FULL), 1, machine, 1, SHORT, Listener())
    assert slow["is_memory_bound"]
    assert slow["bound_ms"] == pytest.approx(FULL.least_bytes / 1e6 * 1e3)


def test_what_does_not_fit_is_left_out_and_said() -> None:
    machine, listener, layer = environment.machine(), Listener(), Layer("tiny", ("a",), FULL)
    own, both = maxdnn_layer.memory_bytes(FULL.with_batch(64))
    assert own > FULL.with_batch(64).input_bytes + FULL.with_batch(64).output_bytes
    assert both > 2 * own
    assert maxdnn_layer.measure(layer, 64, machine, 1, SHORT, listener, limit_bytes=own - 1, with_peer=True) == []
    found = maxdnn_layer.measure(layer, 64, machine, 1, SHORT, listener, limit_bytes=both - 1, with_peer=True)
    assert [record["variant"] for record in found] == [OURS]
    assert listener.said[0].startswith("tiny a, batch 64 is left out: it needs ")
    assert listener.said[1].startswith("tiny a, batch 64: ONNX Runtime is left out, together they need ")


def test_rounds_are_told_apart() -> None:
    """The times of a variant that keeps its own: the first of each turn is to warm up."""
    times: list[float] = []

    def run() -> None:
        times.append(float(len(times)))

    timings, peaks = in_rounds({"a": Calls(run, lambda: times)}, environment.machine(), 1, SHORT, "a", Listener())
    rounds = timings["a"].rounds
    assert len(rounds) == len(peaks) >= 2
    flat = [time for each in rounds for time in each]
    assert flat == sorted(flat)
    for before, after in itertools.pairwise(rounds):
        assert after[0] == before[-1] + 2


def test_efficiency_is_of_each_round() -> None:
    timing = Timing("a", [[1e9, 2e9, 3e9], [4e9]])
    assert efficiencies(timing, 80, [100.0, 40.0]) == [0.4, 0.5]


# ---- tables ---------------------------------------------------------------------------------------------------------
def _record(
    network: str, spec: ConvSpec, batch: int, efficiency: float, variant: str = OURS, bound: bool = False
) -> dict:
    figure = published(network, (spec.c, spec.p, spec.k, spec.r))
    return {
        "protocol": maxdnn_layer.PROTOCOL,
        "network": network,
        "model": spec.id,
        "as_run": spec.id,
        "layer": "features.0",
        "layers": ["features.0"],
        "batch": batch,
        "threads": 1,
        "variant": variant,
        "tile_efficiency": 0.95,
        "of_tile": efficiency / 0.95,
        "computational_efficiency": efficiency,
        "is_memory_bound": bound,
        "config": {"rows": 6, "vectors": 4},
        "published": None if figure is None else vars(figure) | {"shape": list(figure.shape)},
    }


def test_the_table() -> None:
    """Made-up efficiencies: only large batches that are not memory bound count."""
    first, *_, last = layers.distinct("overfeat")
    vgg = layers.distinct("vgg19")[0]
    rows = [_record("overfeat", first, 1, 0.5), _record("overfeat", first, 16, 0.8)]
    rows += [_record("overfeat", last, 16, 0.9), _record("overfeat", last, 16, 0.7, PEER)]
    rows += [_record("vgg19", vgg, 1, 0.4), _record("vgg19", vgg, 16, 0.3, bound=True)]
    (table,) = tables(rows)
    assert [list(row[3:]) for row in table.rows] == [
        ["50.0 %", "80.0 %", "-", "-", "70.3 %", "39.6 %"],
        ["-", "90.0 %", "-", "70.0 %", "96.3 %", "63.2 %"],
        ["40.0 %", "30.0 % m", "-", "-", "", ""],
    ]
    assert table.rows[0][0] == "overfeat L1"
    notes = "\n".join(table.notes)
    assert "batch 16 or more (2 measurements): median 85.0 %, best 90.0 % (overfeat L5, batch 16)" in notes
    assert "in the first-level cache: 95.0 % to 95.0 % of peak" in notes
    assert "the layers reach a median of 89.5 %, best 94.7 %" in notes
    assert "1 of 2 reach maxDNN's share of peak, 2 are above cuDNN's" in notes
    assert "Furthest below the paper: overfeat L5, batch 16, 90.0 % against 96.3 %." in notes
    assert "overfeat L1, batch 16, 80.0 % against 70.3 %: its kernel computes 64 filters at a time" in notes


def test_the_figure_shows_the_last_record_of_each() -> None:
    first, *_, last = layers.distinct("overfeat")
    rows = [_record("overfeat", first, 1, 0.5), _record("overfeat", last, 16, 0.9), _record("overfeat", last, 1, 0.1)]
    rows += [_record("overfeat", last, 1, 0.4), _record("overfeat", last, 1, 0.99, PEER)]
    for row in rows:
        row |= {"machine": {"name": "a machine"}, "commit": "abc"}
    drawing = experiment_figures.figure(rows)
    assert drawing is not None
    assert "batch 1 from 40.0 % to 50.0 % of peak" in drawing.description
    assert "batch 16 from 90.0 % to 90.0 % of peak" in drawing.description
    assert "a machine" in drawing.caption
    for word in ("L1", "L5", "maxDNN, batch 128"):
        assert word in drawing.svg()
    assert experiment_figures.figure([]) is None
