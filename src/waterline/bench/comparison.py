"""The protocol of every comparison: engines interleaved in one run, beside the machine's peak, checked afterwards."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from waterline.bench.engine import Engine, Meter
from waterline.bench.records import Record, measurement
from waterline.bench.timing import Protocol, Ratio, interleave
from waterline.errors import Error
from waterline.machine import Machine, Rates
from waterline.runtime.calibration import measure_peak

AGREEMENT = 1e-3  # of the largest output: far above rounding, far below a wrong layer; `waterline check` is strict
_PEAK_S = 0.005


def compare(
    engines: Mapping[str, Engine],
    machine: Rates,
    *,
    flops: int,
    threads: int,
    labels: Mapping[str, Any],
    variant_labels: Mapping[str, Mapping[str, Any]] | None = None,
    protocol: Protocol | None = None,
    on_round: Callable[[int, float], None] | None = None,
) -> list[Record]:
    """Measure engines against each other.

    Args:
        engines: variant -> engine. Variants are compared with the first one, which is ours.
        flops: of one call, by the direct algorithm.
        threads: that every engine uses, and the peak that efficiencies refer to.
        labels: go into every record; `variant_labels` into a variant's own.

    Returns:
        A record for each variant. `ratio` is how many times as long as the first it took, by the medians of each round.

    Raises:
        Error: the results disagree.
    """
    peaks: list[float] = []
    timings = interleave(
        {name: engine.run for name, engine in engines.items()},
        protocol,
        each_round=lambda: peaks.append(peak_now(machine, threads)),
        on_round=on_round,
    )
    first = next(iter(engines))
    agreements = _agreements(engines, first)
    records = []
    for name, engine in engines.items():
        record = measurement(
            timings[name],
            flops=flops,
            peak_flops_per_s=statistics.median(peaks),
            **labels,
            engine=engine.name,
            threads=threads,
            **(variant_labels or {}).get(name, {}),
        )
        record["ratio"] = vars(Ratio.between(timings[name], timings[first]))
        record["disagreement"] = agreements[name]
        records.append(record)
    return records


def peak_now(machine: Rates, threads: int) -> float:
    """Now, where it can be measured in no time; of a GPU as it was calibrated."""
    return measure_peak(machine, _PEAK_S, threads) if isinstance(machine, Machine) else machine.peak(threads)


def measure_kernels(
    meters: Mapping[str, Meter],
    machine: Rates,
    *,
    flops: int,
    threads: int,
    protocol: Protocol | None = None,
    on_round: Callable[[int, float], None] | None = None,
) -> dict[str, Record]:
    """Measure what the kernels take by the engines' own profilers, interleaved as in `compare`.

    Returns:
        variant -> `kernel_ms` (the median over runs), `kernel_runs` and `kernel_efficiency` for its record.
    """
    peaks: list[float] = []
    interleave(
        {name: meter.run for name, meter in meters.items()},
        protocol,
        each_round=lambda: peaks.append(peak_now(machine, threads)),
        on_round=on_round,
    )
    found = {}
    for name, meter in meters.items():
        times = meter.kernel_ns()
        median_ns = statistics.median(times)
        found[name] = {
            "kernel_ms": median_ns / 1e6,
            "kernel_runs": len(times),
            "kernel_efficiency": flops / (median_ns * 1e-9) / statistics.median(peaks),
        }
    return found


def _agreements(engines: Mapping[str, Engine], first: str) -> dict[str, float]:
    """Variant -> the largest difference from the first one's outputs, as a share of the largest of those."""
    expected = [np.array(value) for value in engines[first].run()]
    differences = {}
    for name, engine in engines.items():
        differences[name] = difference([np.asarray(value) for value in engine.run()], expected)
        if name == first and differences[name] > 0:
            raise Error(
                f"two calls of {first} on the same data differ by {differences[name]:.2g} of the largest output",
                "please report it, with the command: results must not change from call to call",
            )
        if not differences[name] <= AGREEMENT:
            raise Error(
                f"{name} and {first} disagree by {differences[name]:.2g} of the largest output",
                "one of them computes something else: `waterline check` tells whether it is this one",
            )
    return differences


def difference(actual: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> float:
    """The largest difference over all outputs, as a share of that output's largest finite value.

    Infinite if shapes differ, or if one side is NaN or infinite where the other is not.
    """
    if [value.shape for value in actual] != [value.shape for value in expected]:
        return math.inf
    worst = 0.0
    for ours, theirs in zip(actual, expected, strict=True):
        finite = np.isfinite(theirs)
        if not np.array_equal(ours[~finite], theirs[~finite], equal_nan=True) or not np.isfinite(ours[finite]).all():
            return math.inf
        if finite.any():
            largest = max(float(np.abs(theirs[finite]).max()), 1e-30)
            worst = max(worst, float(np.abs(ours[finite] - theirs[finite]).max()) / largest)
    return worst


def fastest_peer(records: Sequence[Record]) -> Record | None:
    """Of one comparison: the peer with the lowest median; None if there is no peer."""
    peers = [record for record in records if record["engine"] != "waterline"]
    return min(peers, key=lambda record: float(record["median_ms"]), default=None)
