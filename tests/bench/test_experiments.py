"""The papers' experiments on tiny sizes: records, arithmetic, and the published figures that they stand beside."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from listeners import Listener

import waterline
from waterline.algorithms.winograd.transforms import filtering
from waterline.api import environment
from waterline.bench import layers
from waterline.bench.experiments import EXPERIMENTS, find, winograd, winograd_accuracy, winograd_speed
from waterline.bench.experiments.winograd_paper import ACCURACY, FLOPS_PER_IMAGE, SPEED, Accuracy
from waterline.bench.timing import Protocol
from waterline.bench.workload import Workload
from waterline.errors import InvalidArgument
from waterline.reference import conv2d
from waterline.report.experiments import tables
from waterline.spec import ConvSpec

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks" / "layers"


def test_an_unknown_experiment() -> None:
    with pytest.raises(InvalidArgument) as raised:
        find("winogrand")
    assert raised.value.hint == "did you mean winograd?"
    for name in EXPERIMENTS:
        assert find(name).configure
        assert find(name).measure


# ---- layer lists ----------------------------------------------------------------------------------------------------
def test_the_papers_layers_are_those_of_vgg19() -> None:
    specs = layers.read(FOLDER / "winograd_paper.txt")
    assert specs == layers.distinct("vgg19")
    assert {published.spec for published in ACCURACY.values()} <= set(specs)


def test_every_layer_of_stride_one_is_listed() -> None:
    listed = layers.read(FOLDER / "winograd_networks.txt")
    networks = {spec for name in ("resnet18", "resnet50", "vgg16") for spec in layers.distinct(name)}
    wanted = {spec for spec in networks if (spec.r, spec.s, spec.stride, spec.groups) == (3, 3, (1, 1), 1)}
    wide = {ConvSpec(1, c, 56, 56, c, 3, 3, pad=(1, 1, 1, 1)) for c in (128, 256)}
    assert set(listed) == wanted | wide


# ---- published figures ----------------------------------------------------------------------------------------------
def test_published_figures_agree_with_each_other() -> None:
    """The speed-ups and rates that the paper prints beside its times."""
    speedups = {1: 2.26, 2: 2.06, 4: 5.91, 8: 7.28, 16: 3.09, 32: 1.79, 64: 1.48}
    rates = {1: 7.03, 2: 7.89, 4: 8.81, 8: 9.43, 16: 9.49, 32: 9.43, 64: 9.37}
    for batch, speed in SPEED.items():
        assert speed.speedup == pytest.approx(speedups[batch], abs=0.01)
        assert batch * FLOPS_PER_IMAGE / (speed.f2x2_ms * 1e-3) / 1e12 == pytest.approx(rates[batch], abs=0.01)


def test_operations_are_beside_the_papers() -> None:
    records = winograd.operations()
    assert [record["algorithm"] for record in records] == ["F(2x2,3x3)", "F(3x3,3x3)", "F(4x4,3x3)", "F(6x6,3x3)"]
    (table,) = tables(records)
    assert table.rows[0] == ("F(2x2,3x3)", "16", "1/2.25", "32", "35", "24", "32 / 28 / 24", "32 / 56 / 24")


# ---- accuracy -------------------------------------------------------------------------------------------------------
TINY = {"tiny": Accuracy(ConvSpec(1, 32, 13, 11, 16, 3, 3, pad=(1, 1, 1, 1)), 1e-5, 5e-6, 4e-5)}


def test_accuracy_on_a_tiny_layer() -> None:
    (found,) = winograd_accuracy.measure(1, Listener(), TINY, seeds=2)
    by_name = {record["algorithm"]: record for record in found}
    assert {"indirect", "winograd:f2x2", "winograd:f4x4", "winograd:f6x6"} <= set(by_name)
    for record in found:
        assert 1e-8 < record["rms_error"] < record["max_error"] < 1e-2
        assert record["ratio_to_direct"] == record["max_error"] / found[0]["max_error"]
    assert by_name["winograd:f2x2"]["published_ratio_to_direct"] == 0.5
    assert by_name["winograd:f6x6"]["published_max_error"] is None
    assert sum(record["is_emulated"] for record in found) == 2
    (table,) = tables(found)
    assert len(table.rows) == len(found)
    assert "(emulated)" in table.to_text()


def test_an_algorithm_that_refuses_is_left_out_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(winograd_accuracy, "ALGORITHMS", ("indirect", "depthwise"))
    listener = Listener()
    (found,) = winograd_accuracy.measure(1, listener, TINY, seeds=1)
    assert [record["algorithm"] for record in found if not record["is_emulated"]] == ["indirect"]
    assert [line.split(":")[:2] for line in listener.said] == [["layer tiny, data 1 of 1", " depthwise is left out"]]


def test_errors_are_of_all_data() -> None:
    found = winograd_accuracy.errors([np.array([3.0, -4.0]), np.array([0.0, -5.0])])
    assert found == {"max_error": 5.0, "rms_error": pytest.approx((50 / 4) ** 0.5)}


def _data(spec: ConvSpec) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(5)
    x = random.uniform(-1, 1, (spec.n, spec.c, spec.h, spec.w)).astype(np.float32)
    return x, random.uniform(-1, 1, (spec.k, spec.c, spec.r, spec.s)).astype(np.float32)


@pytest.mark.parametrize(
    "spec",
    [
        ConvSpec(2, 5, 13, 11, 7, 3, 3, pad=(1, 1, 1, 1)),
        ConvSpec(1, 3, 8, 9, 4, 3, 3),
        ConvSpec(1, 3, 4, 9, 4, 3, 3, pad=(2, 0, 1, 2)),
    ],
    ids=lambda spec: spec.id,
)
@pytest.mark.parametrize("m", [2, 4, 6])
def test_the_emulation_computes_the_layer(spec: ConvSpec, m: int) -> None:
    x, weight = _data(spec)
    y = winograd_accuracy.emulate(x, weight, spec, filtering(m, 3))
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, conv2d(x, weight, None, spec), atol=1e-4)


def test_the_emulation_is_as_accurate_as_the_kernel() -> None:
    """Few channels, so that the order of their sum plays no part: the errors are those of the points."""
    spec = ConvSpec(1, 16, 40, 40, 16, 3, 3, pad=(1, 1, 1, 1))
    x, weight = _data(spec)
    truth = conv2d(x, weight, None, spec)
    kernel = np.asarray(waterline.conv2d(x, weight, padding=1, algorithm="winograd:f4x4", num_threads=1))
    emulated = winograd_accuracy.emulate(x, weight, spec, filtering(4, 3))
    ratio = np.square(emulated - truth).mean() / np.square(kernel - truth).mean()
    assert 0.5 < ratio < 2


def test_points_are_named_in_pairs() -> None:
    points = tuple(map(Fraction, ("0", "2/3", "-2/3", "1", "5/2", "-5/2")))
    assert winograd_accuracy.points_text(points) == "0, +-2/3, 1, +-5/2"


# ---- speed ----------------------------------------------------------------------------------------------------------
NETWORK, SIZE = "squeezenet1_0", 32


def test_speed_of_a_small_network() -> None:
    machine = environment.machine()
    protocol = Protocol(seconds=0.05, least_rounds=2, burst_s=0.001)
    measured = list(winograd_speed.measure(machine, NETWORK, [1, 3], 1, protocol, Listener(), SIZE))
    assert [record["batch"] for found in measured for record in found if record["variant"] == "waterline"] == [1, 3]
    for found in measured:
        ours, direct, *others = found
        assert (ours["variant"], ours["ratio_of_medians"]) == ("waterline", 1.0)
        assert direct["variant"] == "waterline, direct"
        assert not any(name.startswith(("winograd", "fft")) for name in direct["algorithms"])
        assert sum(ours["algorithms"].values()) == ours["convolutions"] == 26
        for record in (ours, direct, *others):
            assert record["flops"] == record["batch"] * ours["flops"] // ours["batch"]
            assert record["effective_flops_per_s"] == pytest.approx(record["flops"] / (record["median_ms"] * 1e-3))
            assert record["published"] is None
            assert record["machine"]
            assert record["versions"]["waterline"]
    (table,) = tables([record for found in measured for record in found])
    assert len(table.rows) == 2
    assert "paper TFLOP/s" not in table.columns
    assert any("the lowest rate of a larger batch, at 3" in note for note in table.notes)


def test_a_batch_that_does_not_fit_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(winograd_speed, "available_bytes", lambda: 1 << 20)
    listener = Listener()
    protocol = Protocol(seconds=0.05, least_rounds=1)
    found = list(winograd_speed.measure(environment.machine(), NETWORK, [1], 1, protocol, listener, SIZE))
    assert found == []
    assert "batch 1 is left out: it needs about" in listener.said[0]


def test_memory_grows_with_the_batch() -> None:
    workload = Workload.named(NETWORK, SIZE)
    one, nine = (winograd_speed.memory_bytes(workload, batch, 2) for batch in (1, 9))
    largest = 96 * 13 * 13 + 64 * 13 * 13  # after the first convolution, and the one with most pixels behind it
    assert one < nine
    assert (nine - one) / (2 * 1.5 * 4 * 8) >= largest / 2


def test_available_memory(tmp_path: Path) -> None:
    path = tmp_path / "meminfo"
    path.write_text("MemTotal:       32 kB\nMemAvailable:       5 kB\n", encoding="ascii")
    assert winograd_speed.available_bytes(str(path)) == 5 << 10
    path.write_text("MemTotal:       32 kB\n", encoding="ascii")
    assert winograd_speed.available_bytes(str(path)) is None
    assert winograd_speed.available_bytes(str(tmp_path / "absent")) is None


def test_the_table_of_the_papers_network() -> None:
    """With published figures; rows of made-up records."""
    common = {"protocol": winograd_speed.PROTOCOL, "model": "vgg19", "threads": 2, "convolutions": 16}
    rows = []
    for batch, factor in ((1, 1.0), (2, 0.9)):
        speed = SPEED[batch]
        flops = int(batch * FLOPS_PER_IMAGE)
        published = {**vars(speed), "speedup": speed.speedup}
        for variant, ms in (("waterline", 50.0), ("waterline, direct", 100.0)):
            rate = flops / (ms * batch * 1e-3) * factor
            rows.append(
                {
                    **common,
                    "batch": batch,
                    "variant": variant,
                    "median_ms": ms * batch / factor,
                    "flops": flops,
                    "effective_flops_per_s": rate,
                    "computational_efficiency": rate / 400e9,
                    "ratio_of_medians": ms / 50.0,
                    "published": published,
                }
            )
    (table,) = tables(rows)
    assert table.rows[0][:7] == ["2", "1", "50.0", "780.4", "195.1 %", "100", "2.00"]
    assert table.rows[0][7:] == ["", "", "7.03", "101.0 %", "2.26"]
    assert any("at 2, is 90.0 % of that at batch 1" in note for note in table.notes)
