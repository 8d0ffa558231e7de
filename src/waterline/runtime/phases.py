"""Phases of a layer, such as Winograd's transforms and products: their times, and how good those are.

A phase that has calls of its own has their times. A kernel that goes through its phases block by block counts ticks
(`codegen.cpu.clock`), and the time of its call is divided as the ticks of all threads are; what the threads waited for
each other is divided with it, so the phases of a layer add up to the layer.

The bound of a phase = max(operations executed / peak, bytes read and written / bandwidth of the second-level cache),
where a good blocking keeps the data between the phases; its *efficiency* = bound / time. Operations are those that the
phase executes, not the direct algorithm's, so no phase exceeds 100 % of peak; one whose data stay in the first-level
cache can exceed the bandwidth of the second.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from waterline.algorithms import by_name
from waterline.codegen.cpu.kernel import Call, Clock
from waterline.machine import Machine
from waterline.planner import Step


@dataclass(frozen=True)
class PhaseRow:
    """A phase of one layer, or of all layers of one algorithm.

    Attributes:
        share: of the time of the layer (the layers).
        flops: executed, padding of tiles included. bytes: read and written.
        flops_per_s: executed operations by time.
        bound_ns: the least time: of the arithmetic at peak, or of the bytes at the second-level cache's bandwidth.
        efficiency: bound_ns / time_ns.
        limit: what gives the bound, "peak" or "l2".
    """

    name: str
    time_ns: float
    share: float
    flops: float
    bytes: float
    flops_per_s: float
    bound_ns: float
    efficiency: float
    limit: str

    @classmethod
    def of(
        cls, name: str, time_ns: float, whole_ns: float, flops: float, moved: float, machine: Machine, threads: int
    ) -> PhaseRow:
        arithmetic = 1e9 * flops / machine.peak(threads)
        moving = 1e9 * moved / machine.bytes_per_s("l2", threads)
        bound = max(arithmetic, moving)
        return cls(
            name=name,
            time_ns=time_ns,
            share=time_ns / whole_ns if whole_ns else 0.0,
            flops=flops,
            bytes=moved,
            flops_per_s=1e9 * flops / time_ns if time_ns else 0.0,
            bound_ns=bound,
            efficiency=bound / time_ns if time_ns else 0.0,
            limit="peak" if arithmetic >= moving else "l2",
        )


@dataclass(frozen=True)
class PhaseSum:
    """The phases of all layers that one algorithm computes, summed."""

    algorithm: str
    layers: int
    time_ns: float
    phases: tuple[PhaseRow, ...]


def timed_phases(call: Call) -> tuple[str, ...]:
    """The names under which a call's time is known: its clock's, else its own; () for a call without a name."""
    for arg in call.args:
        if isinstance(arg, Clock):
            return arg.phases
    return (call.phase,) if call.phase else ()


def phase_times(calls: Iterable[tuple[Call, float, np.ndarray]]) -> dict[str, float]:
    """Nanoseconds of each phase of a layer; {} where a clock has not ticked, so that nothing is known.

    Args:
        calls: of the layer, each with its time in ns and its clock's ticks, (runs, phases): no phases without a clock.
    """
    times: dict[str, float] = {}
    for call, time_ns, ticks in calls:
        shares = _shares(ticks) if ticks.shape[1] else np.ones(1)
        if shares is None:
            return {}
        for name, share in zip(timed_phases(call), shares, strict=False):
            times[name] = times.get(name, 0.0) + time_ns * float(share)
    return times


def _shares(ticks: np.ndarray) -> np.ndarray | None:
    """Of each phase in the quicker half of the runs: in the others, other programs took the processor for a while."""
    sums = ticks.sum(axis=1)
    ran = np.flatnonzero(sums > 0)
    if not len(ran):
        return None
    quick = ran[np.argsort(sums[ran], kind="stable")[: (len(ran) + 1) // 2]]
    totals: np.ndarray = ticks[quick].sum(axis=0)
    return totals / totals.sum()


def phase_rows(step: Step, times: dict[str, float], machine: Machine, threads: int) -> tuple[PhaseRow, ...]:
    """The rows of a layer whose phases took `times`; () where the algorithm has no phases or no time is known."""
    if step.spec is None or not times:
        return ()
    phases = by_name(step.algorithm).phases(step.spec, step.config, machine)
    whole = sum(times.get(phase.name, 0.0) for phase in phases)
    return tuple(
        PhaseRow.of(phase.name, times.get(phase.name, 0.0), whole, phase.flops, phase.bytes, machine, threads)
        for phase in phases
    )


def sum_phases(
    layers: Iterable[tuple[str, Sequence[PhaseRow]]], machine: Machine, threads: int
) -> tuple[PhaseSum, ...]:
    """One sum for each algorithm and its phases, in the order in which they first come.

    Args:
        layers: name of the algorithm, with its variant, and phases of each layer.
    """
    groups: dict[tuple[str, ...], list[Sequence[PhaseRow]]] = {}
    for algorithm, phases in layers:
        if phases:
            groups.setdefault((algorithm, *(phase.name for phase in phases)), []).append(phases)
    found = []
    for (algorithm, *names), members in groups.items():
        whole = sum(phase.time_ns for phases in members for phase in phases)
        rows = []
        for name, column in zip(names, zip(*members, strict=True), strict=True):
            time_ns = sum(phase.time_ns for phase in column)
            flops, moved = sum(phase.flops for phase in column), sum(phase.bytes for phase in column)
            rows.append(PhaseRow.of(name, time_ns, whole, flops, moved, machine, threads))
        found.append(PhaseSum(algorithm, len(members), whole, tuple(rows)))
    return tuple(found)
