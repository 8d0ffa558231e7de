"""The protocol with engines that the test controls."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest

from waterline.bench import comparison
from waterline.bench.engine import Engine, Meter
from waterline.bench.timing import Protocol
from waterline.errors import Error
from waterline.machine import detect

Y = np.linspace(-1, 1, 32, dtype=np.float32).reshape(1, 32)


def engine(name: str, milliseconds: float, result: np.ndarray = Y) -> Engine:
    def run() -> list[np.ndarray]:
        time.sleep(milliseconds / 1e3)
        return [result]

    return Engine(name, "1.0", run)


def compare(*engines: Engine) -> list:
    return comparison.compare(
        {e.name: e for e in engines},
        detect(),
        flops=10**6,
        threads=1,
        labels={"model": "made up", "dtype": "float32", "batch": 1},
        variant_labels={"waterline": {"algorithm": "indirect"}},
        protocol=Protocol(seconds=0.2, least_rounds=3),
    )


@pytest.mark.alone
def test_records_of_a_comparison() -> None:
    ours, theirs = compare(engine("waterline", 1.0), engine("peer", 3.0))
    assert (ours["engine"], ours["algorithm"], ours["ratio"]["median"]) == ("waterline", "indirect", 1.0)
    assert "algorithm" not in theirs
    assert 2 < theirs["ratio"]["median"] < 4
    assert 0 < theirs["computational_efficiency"] < ours["computational_efficiency"] < 1
    assert ours["peak_flops_per_s"] == theirs["peak_flops_per_s"] > 1e8
    assert comparison.fastest_peer([ours, theirs]) is theirs
    assert comparison.fastest_peer([ours]) is None


def test_kernels_by_their_own_profilers() -> None:
    runs = [0]

    def run() -> None:
        runs[0] += 1
        time.sleep(0.001)

    meter = Meter(run, lambda: [9e9, *[2e6] * (runs[0] - 1)])
    found = comparison.measure_kernels(
        {"waterline": meter}, detect(), flops=10**6, threads=1, protocol=Protocol(seconds=0.05, least_rounds=2)
    )["waterline"]
    assert found["kernel_ms"] == 2.0
    assert found["kernel_runs"] == runs[0]
    assert 0 < found["kernel_efficiency"] < 1


@pytest.mark.parametrize(
    "wrong",
    [lambda y: 1.01 * y, lambda y: y.reshape(32, 1), lambda y: np.full_like(y, np.nan), lambda y: y[:, ::-1]],
    ids=["scaled", "shape", "nan", "order"],
)
def test_a_wrong_result_is_no_measurement(wrong: Callable[[np.ndarray], np.ndarray]) -> None:
    with pytest.raises(Error, match="peer and waterline disagree"):
        compare(engine("waterline", 0.1), engine("peer", 0.1, wrong(Y)))


def test_ours_is_the_same_every_time() -> None:
    calls = [0]

    def run() -> list[np.ndarray]:
        calls[0] += 1
        time.sleep(0.0001)
        return [Y * np.float32(1 + calls[0] * 1e-6)]

    with pytest.raises(Error, match="two calls of waterline"):
        compare(Engine("waterline", "1.0", run))


def test_rounding_is_no_disagreement() -> None:
    assert compare(engine("waterline", 0.1), engine("peer", 0.1, Y * np.float32(1 + 1e-6)))[1]["disagreement"] < 1e-5


def test_nan_on_both_sides_agrees() -> None:
    y = Y.copy()
    y[0, 3], y[0, 4] = np.nan, np.inf
    assert comparison.difference([y], [y.copy()]) == 0.0
    other = y.copy()
    other[0, 4] = -np.inf
    assert comparison.difference([other], [y]) == float("inf")
