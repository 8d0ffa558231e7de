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
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from waterline.codegen.cpu.kernel import Call
from waterline.machine import Rates
from waterline.planner import Step
from waterline.runtime.bound import bound_ns, step_bytes
from waterline.runtime.phases import PhaseRow, PhaseSum, phase_rows, phase_times, sum_phases
from waterline.runtime.program import Program

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
    """One layer. `flops` are the direct algorithm's (0 for layers that only move data), `bytes` the least it moves.

    `phases` are those of the algorithm that ran, () where it has one only; theirs are the operations executed.
    """

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
    phases: tuple[PhaseRow, ...] = ()


@dataclass(frozen=True)
class Report:
    """Rows and what they add up to.

    Attributes:
        time_ns: median of one inference. threads: cores it ran on. runs: how many inferences were measured.
        peak_flops_per_s, bytes_per_s: the machine's, measured, of so many cores.
        phase_sums: for each algorithm with phases, those of all its layers together.
    """

    network: str
    machine: str
    threads: int
    runs: int
    peak_flops_per_s: float
    bytes_per_s: float
    rows: tuple[Row, ...]
    time_ns: float
    phase_sums: tuple[PhaseSum, ...] = ()

    @property
    def totals(self) -> dict[str, float]:
        """The sums of the layers; "waterline" is the computational efficiency that the layers' bounds allow."""
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
        """Plain values. A row's "phases" and "phase_sums" are lists, empty where no layer has phases."""
        plain = {key: value for key, value in asdict(self).items() if key not in ("rows", "time_ns", "phase_sums")}
        return plain | {
            "rows": [_with_phases(row) for row in self.rows],
            "totals": self.totals,
            "phase_sums": [_with_phases(group) for group in self.phase_sums],
        }

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=1)

    def to_csv(self, *, phases: bool = False) -> str:
        """One line a layer. With `phases` a column of that name, and behind a layer a line for each of its phases."""
        out = io.StringIO()
        fields = (FIELDS[0], "phase", *FIELDS[1:]) if phases else FIELDS
        writer = csv.DictWriter(out, fields, lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        for row in self.rows:
            writer.writerow(asdict(row) | {"phase": ""})
            if phases:
                writer.writerows(self._as_layer(row, phase) for phase in row.phases)
        return out.getvalue()

    def to_markdown(self, *, phases: bool = True) -> str:
        """One line a layer and, with `phases`, one a phase behind it."""
        lines = ["| " + " | ".join(_HEADINGS) + " |", "|:--|:--|:--|" + "--:|" * (len(_HEADINGS) - 3)]
        lines += ["| " + " | ".join(cells) + " |" for cells in self._cells(phases, "&nbsp;&nbsp;")]
        return "\n".join([*lines, *(f"\n{line}" for line in self._sums(phases))])

    def __str__(self) -> str:
        table = [_HEADINGS, *self._cells(True, "  ")]
        widths = [max(len(cells[i]) for cells in table) for i in range(len(_HEADINGS))]
        lines = [
            "  ".join(c.ljust(w) if i < 3 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True)))
            for cells in table
        ]
        return "\n".join([*lines, *self._sums(True)])

    def _as_layer(self, row: Row, phase: PhaseRow) -> dict[str, Any]:
        """A phase in the fields of its layer, with the operations that it executes and its own bound."""
        return {
            "name": row.name,
            "phase": phase.name,
            "shape": row.shape,
            "algorithm": row.algorithm,
            "time_ns": phase.time_ns,
            "flops": phase.flops,
            "bytes": phase.bytes,
            "operational_intensity": _ratio(phase.flops, phase.bytes),
            "effective_flops_per_s": phase.flops_per_s,
            "computational_efficiency": phase.flops_per_s / self.peak_flops_per_s,
            "bound_ns": phase.bound_ns,
        }

    def _sums(self, phases: bool) -> list[str]:
        return [describe(_with_phases(group)) for group in self.phase_sums] if phases else []

    def _cells(self, phases: bool, indent: str) -> list[tuple[str, ...]]:
        totals = self.totals
        cells = []
        for row in self.rows:
            cells.append(_row_cells(row.name, row.shape, row.algorithm, asdict(row)))
            for phase in row.phases if phases else ():
                share = f"{100 * phase.share:.1f} % of it"
                cells.append(_row_cells(indent + phase.name, share, "", self._as_layer(row, phase)))
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


def _with_phases(group: Row | PhaseSum) -> dict[str, Any]:
    values = asdict(group)
    return values | {"phases": list(values["phases"])}


def describe(group: Mapping[str, Any]) -> str:
    """A `PhaseSum`'s dictionary in a line: each phase's share, and how near it is to what limits it."""
    limits = {"peak": "peak", "l2": "L2 bandwidth"}
    phases = ", ".join(
        f"{phase['name']} {100 * phase['share']:.1f} % ({100 * phase['efficiency']:.0f} % of {limits[phase['limit']]})"
        for phase in group["phases"]
    )
    return f"{group['algorithm']}, {group['layers']} layer{'s' if group['layers'] > 1 else ''}: {phases}"


def measure(program: Program, inputs: Sequence[np.ndarray], threads: int, seconds: float) -> Report:
    """Runs a program once to warm up, then for about `seconds` and at least once: the report of these runs."""
    times = np.zeros((len(program.calls) + 1, 2), np.int64)
    ticks = np.zeros(len(program.counters), np.int64)
    samples: list[np.ndarray] = []
    counted: list[np.ndarray] = []
    program.run(inputs, threads)
    deadline = time.monotonic() + seconds
    while not samples or time.monotonic() < deadline:
        times[:] = 0
        program.run(inputs, threads, times, ticks)
        moments = times[:, 0] * 10**9 + times[:, 1]
        moments = np.maximum.accumulate(moments)  # a call without items has no moment of its own
        samples.append(np.diff(moments))
        counted.append(ticks.copy())
    return report(program, np.array(samples), np.array(counted), threads)


def report(program: Program, samples: np.ndarray, ticks: np.ndarray, threads: int) -> Report:
    """A report from measured times.

    Args:
        samples: (runs, calls) nanoseconds of each kernel call.
        ticks: (runs, counters) of the kernels' clocks.
        threads: how many ran; the program's machine gives peak and bandwidth of so many cores.
    """
    plan, machine = program.plan, program.machine
    owners = np.array([call for call, _ in program.counters], np.int64)
    calls: list[list[tuple[Call, float, np.ndarray]]] = [[] for _ in plan.steps]
    for i, (bound, time_ns) in enumerate(zip(program.calls, np.median(samples, axis=0), strict=True)):
        calls[bound.step].append((bound.call, float(time_ns), ticks[:, owners == i]))
    rows = tuple(
        row_of(
            step,
            sum(time_ns for _, time_ns, _ in timed),
            machine,
            threads,
            phase_rows(step, phase_times(timed), machine, threads),
        )
        for step, timed in zip(plan.steps, calls, strict=True)
    )
    return Report(
        network=plan.network,
        machine=machine.name,
        threads=threads,
        runs=len(samples),
        peak_flops_per_s=machine.peak(threads),
        bytes_per_s=machine.bytes_per_s("dram", threads),
        rows=rows,
        time_ns=float(np.median(samples.sum(axis=1))),
        phase_sums=sum_phases(((row.algorithm, row.phases) for row in rows), machine, threads),
    )


def row_of(step: Step, time_ns: float, machine: Rates, threads: int, phases: tuple[PhaseRow, ...] = ()) -> Row:
    """The row of a step that took so long."""
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
        phases=phases,
    )


def _ratio(a: float, b: float) -> float:
    return a / b if b else math.nan if a else 0.0
