"""`Report`: where a network's time goes, layer by layer, beside the bound of the direct algorithm.

Definitions (Lavin, "On the Efficiency of Convolutional Neural Networks", 2024): *computational efficiency* = operations
of the direct algorithm / (time x measured peak); *operational intensity* = operations / least bytes moved; the roofline
*bound* of a layer = max(operations / peak, bytes / memory bandwidth); the *waterline* of a sequence of kernels is the
efficiency that it would reach if each ran at its bound: sum of operations / (peak x sum of bounds).

Operations are the direct algorithm's, as in the papers: an efficiency above 100 % and a time below the bound say that a
fast algorithm (Winograd) did less arithmetic, or that data came from a nearer cache than the bound assumes.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from waterline.machine import Machine
from waterline.planner import Plan, Step

FIELDS = (
    "name",
    "shape",
    "algorithm",
    "time_ns",
    "flops",
    "bytes",
    "operational_intensity",
    "effective_flops_per_s",
    "computational_efficiency",
    "bound_ns",
)


@dataclass(frozen=True)
class Row:
    """One layer. `flops` are the direct algorithm's (0 for layers that only move data), `bytes` the least it moves."""

    name: str
    shape: str
    algorithm: str
    time_ns: float
    flops: int
    bytes: int
    operational_intensity: float
    effective_flops_per_s: float
    computational_efficiency: float
    bound_ns: float


@dataclass(frozen=True)
class Report:
    """Rows and what they add up to.

    Attributes:
        time_ns: median of one inference. threads: cores it ran on. runs: how many inferences were measured.
        peak_flops_per_s, bytes_per_s: the machine's, measured, of so many cores.
        waterline: the computational efficiency that the layers' bounds allow.
    """

    network: str
    machine: str
    threads: int
    runs: int
    peak_flops_per_s: float
    bytes_per_s: float
    rows: tuple[Row, ...]
    time_ns: float

    @property
    def totals(self) -> dict[str, float]:
        flops = sum(row.flops for row in self.rows)
        moved = sum(row.bytes for row in self.rows)
        bound = sum(row.bound_ns for row in self.rows)
        return {
            "time_ns": self.time_ns,
            "flops": flops,
            "bytes": moved,
            "operational_intensity": _ratio(flops, moved),
            "effective_flops_per_s": _ratio(flops * 1e9, self.time_ns),
            "computational_efficiency": _ratio(flops * 1e9, self.time_ns * self.peak_flops_per_s),
            "bound_ns": bound,
            "waterline": _ratio(flops * 1e9, bound * self.peak_flops_per_s),
        }

    def to_dict(self) -> dict[str, Any]:
        plain = {key: value for key, value in asdict(self).items() if key not in ("rows", "time_ns")}
        return plain | {"rows": [asdict(row) for row in self.rows], "totals": self.totals}

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=1)

    def to_csv(self) -> str:
        out = io.StringIO()
        writer = csv.DictWriter(out, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in self.rows)
        return out.getvalue()

    def to_markdown(self) -> str:
        lines = ["| " + " | ".join(_HEADINGS) + " |", "|:--|:--|:--|" + "--:|" * (len(_HEADINGS) - 3)]
        lines += ["| " + " | ".join(cells) + " |" for cells in self._cells()]
        return "\n".join(lines)

    def __str__(self) -> str:
        table = [_HEADINGS, *self._cells()]
        widths = [max(len(cells[i]) for cells in table) for i in range(len(_HEADINGS))]
        lines = [
            "  ".join(c.ljust(w) if i < 3 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True)))
            for cells in table
        ]
        return "\n".join(lines)

    def _cells(self) -> list[tuple[str, ...]]:
        totals = self.totals
        cells = [_row_cells(row.name, row.shape, row.algorithm, asdict(row)) for row in self.rows]
        name = f"total, {self.threads} thread{'s' if self.threads > 1 else ''}"
        cells.append(_row_cells(name, "", f"waterline {100 * totals['waterline']:.1f} %", totals))
        return cells


_HEADINGS = ("layer", "shape", "algorithm", "us", "MFLOP", "MB", "FLOP/B", "GFLOP/s", "% of peak", "bound us")


def _row_cells(name: str, shape: str, algorithm: str, values: dict[str, float]) -> tuple[str, ...]:
    has_flops = values["flops"] > 0
    return (
        name,
        shape,
        algorithm,
        f"{values['time_ns'] / 1e3:.1f}",
        f"{values['flops'] / 1e6:.1f}" if has_flops else "",
        f"{values['bytes'] / 1e6:.3f}",
        f"{values['operational_intensity']:.1f}" if has_flops else "",
        f"{values['effective_flops_per_s'] / 1e9:.1f}" if has_flops else "",
        f"{100 * values['computational_efficiency']:.1f}" if has_flops else "",
        f"{values['bound_ns'] / 1e3:.1f}",
    )


def report(plan: Plan, samples: np.ndarray, calls: Sequence[tuple[int, str]], machine: Machine, threads: int) -> Report:
    """A report from measured times.

    Args:
        samples: (runs, calls) nanoseconds of each kernel call.
        calls: for each call its step and the name of its phase ("" where the step has one call).
        machine: gives peak and bandwidth for `threads` cores.
    """
    peak = machine.peak(threads)
    rate = machine.bytes_per_s("dram", threads)
    by_call = np.median(samples, axis=0) if len(samples) else np.zeros(len(calls))
    times = np.zeros(len(plan.steps))
    for (step, _), time_ns in zip(calls, by_call, strict=True):
        times[step] += time_ns
    rows = tuple(_row(step, float(t), machine, threads) for step, t in zip(plan.steps, times, strict=True))
    total = float(np.median(samples.sum(axis=1))) if len(samples) else 0.0
    return Report(plan.network, machine.name, threads, len(samples), peak, rate, rows, total)


def _row(step: Step, time_ns: float, machine: Machine, threads: int) -> Row:
    flops = step.spec.flops if step.spec else 0
    moved = step_bytes(step)
    bound = bound_ns(step, machine, threads)
    return Row(
        name=step.name,
        shape=step.spec.id if step.spec else "x".join(map(str, step.outputs[0].view.shape)),
        algorithm=step.kind,
        time_ns=time_ns,
        flops=flops,
        bytes=moved,
        operational_intensity=_ratio(flops, moved),
        effective_flops_per_s=_ratio(flops * 1e9, time_ns),
        computational_efficiency=_ratio(flops * 1e9, time_ns * machine.peak(threads)),
        bound_ns=bound,
    )


def step_bytes(step: Step) -> int:
    """Least bytes: every input, weight and output once."""
    if step.spec is not None:
        return step.spec.least_bytes
    return 4 * sum(storage.view.elems for storage in (*step.inputs, *step.outputs))


def bound_ns(step: Step, machine: Machine, threads: int) -> float:
    """The roofline's least time. What fits the last-level cache moves at its bandwidth, the rest at the memory's."""
    moved = step_bytes(step)
    level = "l3" if moved <= machine.l3_bytes else "dram"
    if step.spec is None:
        return 1e9 * moved / machine.bytes_per_s(level, threads)
    arithmetic = step.spec.flops / machine.peak(threads)
    return 1e9 * max(arithmetic, moved / machine.bytes_per_s(level, threads))


def _ratio(a: float, b: float) -> float:
    return a / b if b else math.nan if a else 0.0
