"""`experiment indirect` on tiny layers: classes, one micro-kernel, exact bytes, and the sentences beside the paper."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from listeners import Strict

from waterline.algorithms import by_name
from waterline.api import environment
from waterline.bench import layers
from waterline.bench.experiments import indirect, indirect_memory, indirect_time
from waterline.bench.experiments.indirect_paper import (
    BEST_RATIO,
    CLASSES,
    LARGER,
    NETWORKS,
    POINTWISE,
    STRIDED,
    class_of,
    memory_ratio,
)
from waterline.bench.experiments.indirect_time import INDIRECT, OURS, OWN_TILE, SAME_TILE, NetworkLayer
from waterline.bench.experiments.one_layer import LayerRun, Tensors, as_run
from waterline.bench.timing import Protocol
from waterline.errors import Error
from waterline.reference import conv2d
from waterline.report.experiments import tables
from waterline.spec import ConvSpec

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks" / "layers"
FIRST = ConvSpec(1, 3, 20, 20, 16, 7, 7, stride=(2, 2), pad=(3, 3, 3, 3))
FULL = ConvSpec(1, 40, 9, 9, 24, 3, 3, pad=(1, 1, 1, 1))
STRIDED_1X1 = ConvSpec(1, 24, 12, 12, 40, 1, 1, stride=(2, 2))
PLAIN_1X1 = ConvSpec(1, 40, 9, 9, 24, 1, 1)
SHORT = Protocol(seconds=0.02, least_rounds=2, least_calls=1, burst_s=0.001)


def _layer(spec: ConvSpec) -> NetworkLayer:
    return NetworkLayer("tiny", "conv", spec, class_of(spec))


# ---- layers ---------------------------------------------------------------------------------------------------------
def test_the_layers_are_those_of_the_papers_networks() -> None:
    found = indirect.layers_of(NETWORKS)
    listed = [spec for name in NETWORKS for spec in layers.read(FOLDER / f"{name}.txt")]
    assert [layer.spec for layer in found] == listed
    assert found[0].name == "conv1"
    assert {layer.kind for layer in found} == set(CLASSES)


def test_classes() -> None:
    found = {layer.spec: layer.kind for layer in indirect.layers_of(NETWORKS)}
    assert {spec for spec, kind in found.items() if kind == LARGER} == {spec for spec in found if spec.taps > 1}
    resnet = layers.distinct("resnet18")
    assert [found[spec] for spec in resnet if spec.taps == 1] == [STRIDED] * 3
    assert [found[spec] for spec in layers.distinct("squeezenet1_0") if spec.taps == 1] == [POINTWISE] * 15
    assert class_of(replace(PLAIN_1X1, pad=(1, 1, 1, 1))) == STRIDED  # a padded input cannot be taken as it lies


def test_resnets_layers_are_those_of_the_authors_benchmark() -> None:
    """Height, filter, stride, channels, as listed in the author's later benchmark of the same algorithms."""
    listed = {(224, 7, 2, 3, 64), (56, 3, 1, 64, 64), (56, 3, 2, 64, 128), (28, 3, 1, 128, 128), (56, 1, 2, 64, 128)}
    listed |= {(28, 3, 2, 128, 256), (14, 3, 1, 256, 256), (28, 1, 2, 128, 256), (14, 3, 2, 256, 512)}
    listed |= {(7, 3, 1, 512, 512), (14, 1, 2, 256, 512)}
    assert {(s.h, s.r, s.stride[0], s.c, s.k) for s in layers.distinct("resnet18")} == listed


# ---- memory ---------------------------------------------------------------------------------------------------------
def test_memory_is_exact() -> None:
    machine = environment.machine()
    found = indirect_memory.measure([_layer(spec) for spec in (FIRST, FULL, STRIDED_1X1, PLAIN_1X1)], machine)
    assert [(record["model"], record["batch"]) for record in found] == [
        (spec.id, batch) for spec in (FIRST, FULL, STRIDED_1X1) for batch in (1, 8)
    ]
    for record in found:
        spec = ConvSpec.parse(record["model"])
        pixels = spec.p * spec.q
        assert record["patches_bytes"] == record["batch"] * pixels * spec.taps * spec.c * 4
        entries = 7 if spec is FIRST or spec == FIRST else spec.taps  # a filter row of the first layer is one run
        assert record["indirection_bytes"] == pixels * entries * 4
        assert record["ratio"] >= 2 * record["batch"] * record["published_ratio"]
        assert record["published_ratio"] == spec.c / 2
    assert found[2]["ratio"] == FULL.c
    assert found[3]["ratio"] == 8 * FULL.c


def test_the_papers_example_of_memory() -> None:
    """ResNet-18's 56x56x64 layer of 3x3 filters: 7.23 MB against 0.226 MB of pointers."""
    spec = ConvSpec(1, 64, 56, 56, 64, 3, 3, pad=(1, 1, 1, 1))
    assert memory_ratio(spec) == 32
    (one, _) = indirect_memory.measure([_layer(spec)], environment.machine())
    assert one["patches_bytes"] == 7_225_344
    assert one["patches_bytes"] / one["published_ratio"] == 225_792
    assert one["indirection_bytes"] == 112_896


# ---- one layer on NHWC memory ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("spec", [FIRST, replace(FULL, n=2), STRIDED_1X1, PLAIN_1X1], ids=lambda spec: spec.id)
@pytest.mark.parametrize("threads", [1, 2])
def test_every_copy_computes_the_layer(spec: ConvSpec, threads: int) -> None:
    machine = environment.machine()
    if threads > machine.cores:
        pytest.skip("one core")
    tensors = Tensors(spec, copies=3)
    truth = conv2d(tensors.nchw(), tensors.weight, None, spec).transpose(0, 2, 3, 1)
    for way in indirect_time.ways(tensors.spec, machine).values():
        for y in tensors.y:
            y.fill(np.nan)
        run = LayerRun(tensors, by_name(way.algorithm), way.config, machine, threads)
        run.run()
        for y in tensors.y:
            np.testing.assert_allclose(y, truth, rtol=1e-4)
        assert len(run.samples_ns) == 1
        assert run.samples_ns[0] > 0
        assert set(run.phases_ns) == ({"patches", "gemm"} if way.algorithm == "im2col" else set())
        run.output()
        assert len(run.samples_ns) == 1


def test_warm_runs_use_one_copy() -> None:
    machine = environment.machine()
    tensors = Tensors(FULL, copies=2)
    way = indirect_time.ways(tensors.spec, machine)[OURS]
    LayerRun(tensors, by_name(way.algorithm), way.config, machine, 1, is_repeated=True).run()
    assert np.isfinite(tensors.y[0]).all()
    assert np.isnan(tensors.y[1]).all()


def test_copies_exceed_the_cache() -> None:
    machine = replace(environment.machine(), l3_bytes=1 << 20)
    spec = as_run(FULL)
    table_bytes = 81 * 9 * 4
    each = spec.weight_bytes + spec.output_bytes + table_bytes
    assert (
        (indirect_time.copies_for(spec, machine) - 1) * each <= 2 << 20 < indirect_time.copies_for(spec, machine) * each
    )
    huge = replace(machine, l3_bytes=480 << 20)
    large = as_run(ConvSpec(1, 512, 7, 7, 512, 3, 3, pad=(1, 1, 1, 1)))
    assert indirect_time.copies_for(large, huge) == 1 + (128 << 20) // (large.weight_bytes + 49 * (512 + 9) * 4)


# ---- time -----------------------------------------------------------------------------------------------------------
def _measure(spec: ConvSpec, **how: bool) -> list[list[dict]]:
    return list(indirect_time.measure(_layer(spec), environment.machine(), 1, SHORT, Strict(), "tiny", 3, **how))


@pytest.mark.parametrize("spec", [FIRST, FULL, STRIDED_1X1], ids=lambda spec: spec.id)
def test_layers_that_need_im2col(spec: ConvSpec) -> None:
    cold, warm = _measure(spec, with_warm=True)
    for found, data, copies in ((cold, "cold", 3), (warm, "warm", 1)):
        ours, same, *own = found
        assert (ours["variant"], ours["algorithm"], ours["ratio"]["median"]) == (OURS, "indirect", 1.0)
        assert (same["variant"], same["algorithm"]) == (SAME_TILE, "im2col")
        assert same["tile"] == ours["tile"]
        for field in ("rows", "vectors", "unroll", "block_tiles", "panel_outer"):
            assert same["config"][field] == ours["config"][field]
        assert set(same["phases_ms"]) == {"patches", "gemm"}
        assert [record["variant"] for record in own] in ([], [OWN_TILE])
        for record in found:
            assert (record["data"], record["copies"], record["class"]) == (data, copies, class_of(spec))
            assert record["flops"] == spec.flops
            assert record["disagreement"] < 1e-5
            assert 0 < record["ratio"]["p10"] <= record["ratio"]["median"] <= record["ratio"]["p90"]


def test_pointwise_layers_have_no_im2col() -> None:
    (found,) = _measure(PLAIN_1X1)
    by_variant = {record["variant"]: record for record in found}
    assert by_variant[OURS]["algorithm"] == by_variant[SAME_TILE]["algorithm"] == "direct_gemm"
    assert by_variant[INDIRECT]["algorithm"] == "indirect"
    assert by_variant[INDIRECT]["tile"] == by_variant[OURS]["tile"]
    assert all(record["phases_ms"] == {} for record in found)


def test_variants_of_another_tile_are_an_error() -> None:
    machine = environment.machine()
    tensors = Tensors(FULL)
    ways = indirect_time.ways(tensors.spec, machine)
    other = replace(ways[SAME_TILE].config, vectors=1, rows=2)
    runs = {
        OURS: LayerRun(tensors, by_name("indirect"), ways[OURS].config, machine, 1),
        SAME_TILE: LayerRun(tensors, by_name("im2col"), other, machine, 1),
    }
    with pytest.raises(Error, match="has the micro-kernel"):
        indirect_time.check_one_kernel(runs)


@pytest.mark.parametrize(
    ("depth", "most", "unroll", "expected"),
    [(576, 0, 4, 0), (576, 128, 4, 96), (576, 192, 4, 192), (147, 63, 2, 49), (7, 3, 4, 1), (576, 4096, 4, 576)],
)
def test_chunks_divide_the_depth(depth: int, most: int, unroll: int, expected: int) -> None:
    assert indirect_time.dividing_chunk(depth, most, unroll) == expected


# ---- tables ---------------------------------------------------------------------------------------------------------
def _record(spec: ConvSpec, variant: str, median_ms: float, ours_ms: float, spread: float = 0.02) -> dict:
    ratio = median_ms / ours_ms
    algorithm = "im2col" if variant == SAME_TILE and not spec.is_pointwise else "indirect"
    if spec.is_pointwise and variant != INDIRECT:
        algorithm = "direct_gemm"
    return {
        "protocol": indirect_time.PROTOCOL,
        "model": spec.id,
        "network": "tiny",
        "layer": "conv",
        "class": class_of(spec),
        "variant": variant,
        "algorithm": algorithm,
        "threads": 1,
        "data": "cold",
        "median_ms": median_ms,
        "computational_efficiency": 0.9,
        "tile": {"rows": 6, "vectors": 4},
        "ratio": {"median": ratio, "p10": ratio - spread, "p90": ratio + spread},
        "phases_ms": {"patches": 0.25 * median_ms, "gemm": 0.75 * median_ms} if algorithm == "im2col" else {},
    }


def test_tables_by_class() -> None:
    """Made-up times: 1.44 and 1 of larger filters, 0.9 of a strided 1x1, and 1.1 of indirect forced on a 1x1."""
    times = {FULL: {OURS: 1.0, SAME_TILE: 1.44}, FIRST: {OURS: 2.0, SAME_TILE: 2.0}}
    times |= {STRIDED_1X1: {OURS: 1.0, SAME_TILE: 0.9}, PLAIN_1X1: {OURS: 1.0, SAME_TILE: 1.0, INDIRECT: 1.1}}
    rows = [_record(spec, name, ms, each[OURS]) for spec, each in times.items() for name, ms in each.items()]
    against, pointwise, classes = tables(rows)
    assert [row[8] for row in against.rows] == ["1.44", "1.00", "0.90"]
    assert [row[7] for row in against.rows] == ["25.0 %"] * 3
    assert pointwise.rows[0][-2] == "1.10"
    by_class = {(row[0], row[1]): row for row in classes.rows}
    assert list(by_class[LARGER, "indirect"][2:5]) == ["2", "1.200", "1.00"]
    assert by_class[LARGER, "indirect"][6] == "1.44"
    assert by_class[LARGER, "indirect"][-1] == f"up to {BEST_RATIO}"
    assert by_class[STRIDED, "indirect"][3] == "0.900"
    assert by_class[POINTWISE, "direct_gemm"][3] == "1.000"
    assert by_class[POINTWISE, "indirect, forced"][3] == "0.909"
    notes = "\n".join(classes.notes)
    assert "up to 62.0 % faster" in notes
    assert "Here up to 44.0 %" in notes
    assert "im2col was faster on 1 of 3 layers" in notes
    assert "67.5 % of indirect's time" in notes
    assert "1.100 times as long as direct_gemm, which agrees" in notes
