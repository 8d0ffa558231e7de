"""Phases of layers: times from calls and from the clocks of kernels, what they add up to, and how they are written."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from programs import LOCAL, bytes_of, image, network, program

from waterline.algorithms import Algorithm, Implementation, by_name
from waterline.algorithms.base import Phase
from waterline.codegen.cpu.clock import PhaseClock
from waterline.codegen.cpu.emitter import F64, Emitter, Value
from waterline.codegen.cpu.kernel import Call, Clock, Kernel, Number
from waterline.report.tables import per_layer
from waterline.runtime import phases as phases_module
from waterline.runtime import program as program_module
from waterline.runtime.phases import PhaseRow, phase_times, sum_phases, timed_phases
from waterline.runtime.profile import FIELDS, Report, measure
from waterline.runtime.program import Program

NAMES = ("before", "product", "after")


@dataclass(frozen=True)
class Laps(Kernel):
    """Another kernel between two chains of additions, the second three times as long; its clock is argument `clock`."""

    inner: Kernel
    clock: int
    rounds: int = 20_000

    def build(self, emitter: Emitter, args: Value, begin: Value, end: Value, scratch: Value) -> None:
        e = emitter
        clock = PhaseClock(e, e.load_pointer(args, 8 * self.clock))
        clock.start()
        self._idle(e, self.rounds)
        clock.lap(0)
        self.inner.build(e, args, begin, end, scratch)
        clock.lap(1)
        self._idle(e, 3 * self.rounds)
        clock.lap(2)
        clock.flush()

    def _idle(self, e: Emitter, rounds: int) -> None:
        slot = e.stack(8, 8)
        e.store(F64(1.0), slot, 0, 8)
        with e.loop(0, rounds):
            e.forget_loads()
            e.store(e.builder.fadd(e.load(slot, F64, 0, 8), F64(1e-9)), slot, 0, 8)


class Timed:
    """An algorithm of the registry whose kernels count phases (fused), or whose calls are phases (not fused)."""

    def __init__(self, algorithm: Algorithm, fused: bool) -> None:
        self._algorithm, self._fused = algorithm, fused

    def __getattr__(self, name: str) -> Any:
        return getattr(self._algorithm, name)

    def phases(self, spec: Any, config: Any, machine: Any) -> tuple[Phase, ...]:
        if self._fused:
            return (Phase("before", 0, 1e3), Phase("product", spec.flops, 0), Phase("after", 0, 3e3))
        return (Phase("patches", 0, spec.least_bytes), Phase("gemm", spec.flops, spec.least_bytes))

    def implement(self, *arguments: Any) -> Implementation:
        made = self._algorithm.implement(*arguments)
        return replace(made, calls=tuple(map(self._timed, made.calls))) if self._fused else made

    def _timed(self, call: Call) -> Call:
        args = (*call.args, Clock(NAMES))
        return replace(call, kernel=Laps(call.kernel, len(call.args)), args=args, chunk=max(1, call.items // 3))


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Program]:
    def make(name: str, fused: bool) -> Program:
        def chosen(wanted: str) -> Algorithm | Timed:
            return Timed(by_name(wanted), fused) if wanted == name else by_name(wanted)

        monkeypatch.setattr(program_module, "by_name", chosen)
        monkeypatch.setattr(phases_module, "by_name", chosen)
        return program(network(), algorithms=(name, "depthwise", "grouped", "naive"))

    return make


def layers(made: Program, report: Report, name: str) -> list[Any]:
    rows = [row for step, row in zip(made.plan.steps, report.rows, strict=True) if step.algorithm == name]
    assert rows
    return rows


# ---- in a network -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("threads", [1, 2])
def test_a_fused_layer_s_time_is_divided_as_its_kernel_counts(timed, threads: int):
    made = timed("indirect", fused=True)
    report = measure(made, [image(network())], threads, 0.3)
    for row in layers(made, report, "indirect"):
        before, product, after = row.phases
        assert tuple(phase.name for phase in row.phases) == NAMES
        assert sum(phase.time_ns for phase in row.phases) == pytest.approx(row.time_ns)
        assert sum(phase.share for phase in row.phases) == pytest.approx(1)
        assert 2 < after.time_ns / before.time_ns < 4.5
        assert product.flops == row.flops
        assert product.time_ns > 0
        assert product.limit == "peak"
    others = [row for row in report.rows if row.algorithm in ("depthwise", "grouped", "relu")]
    assert others
    assert all(row.phases == () for row in others)


@pytest.mark.parametrize("threads", [1, 2])
def test_calls_that_are_phases_have_their_own_times(timed, threads: int):
    made = timed("im2col", fused=False)
    report = measure(made, [image(network())], threads, 0.1)
    rows = [row for row in layers(made, report, "im2col") if len(row.phases) > 1]
    assert rows
    for row in rows:
        assert [phase.name for phase in row.phases] == ["patches", "gemm"]
        assert sum(phase.time_ns for phase in row.phases) == pytest.approx(row.time_ns)
        assert row.phases[0].limit == "l2"


def test_counting_changes_no_result(timed):
    plain = program(network(), algorithms=("indirect", "depthwise", "grouped", "naive"))
    expected = bytes_of(plain.run([image(network())], 1))
    made = timed("indirect", fused=True)
    for threads in (1, 2):
        assert bytes_of(made.run([image(network())], threads)) == expected


def test_a_run_s_ticks_are_its_own(timed):
    """Counters begin at zero in each run that asks for them, whatever ran in the same context before."""
    made = timed("indirect", fused=True)
    x = image(network())
    assert {phase for _, phase in made.counters} == set(NAMES)
    made.run([x], 1)
    context = made._borrow()
    context._counters[:] = 1 << 60
    made._give_back(context)
    ticks = np.zeros(len(made.counters), np.int64)
    made.run([x], 1, None, ticks)
    assert (ticks > 0).all()
    assert (ticks < 1 << 59).all()
    made.run([x], 1)
    assert (context._counters > ticks).all(), "kernels count in every run"


def test_contexts_count_for_themselves(timed):
    made = timed("indirect", fused=True)
    first, second = made._borrow(), made._borrow()
    first._counters[:] = 7
    assert (second._counters == 0).all()


# ---- arithmetic -------------------------------------------------------------------------------------------------
def call(*args: Any, phase: str = "") -> Call:
    return Call(Kernel(), args, 1, phase=phase)


NONE = np.zeros((3, 0), np.int64)


def test_names_of_timed_phases():
    assert timed_phases(call(Number(1))) == ()
    assert timed_phases(call(Number(1), phase="gemm")) == ("gemm",)
    assert timed_phases(call(Number(1), Clock(NAMES), phase="gemm")) == NAMES


def test_calls_of_the_same_phase_are_summed():
    calls = [(call(phase=name), ns, NONE) for name, ns in (("in", 1.0), ("out", 2.0), ("in", 4.0), ("", 8.0))]
    assert phase_times(calls) == {"in": 5.0, "out": 2.0}


def test_clocks_divide_by_the_quicker_runs():
    ticks = np.array([[10, 30], [11, 33], [900, 40], [0, 0]])
    found = phase_times([(call(Clock(("in", "out"))), 100.0, ticks), (call(Clock(("in", "out"))), 100.0, ticks)])
    assert found == pytest.approx({"in": 50.0, "out": 150.0})


def test_clocks_that_have_not_ticked_divide_nothing():
    ticks = np.zeros((3, 2), np.int64)
    assert phase_times([(call(phase="in"), 1.0, NONE), (call(Clock(("in", "out"))), 100.0, ticks)]) == {}


def test_bounds_of_a_phase():
    machine = replace(LOCAL, cores=1)
    peak, rate = machine.peak(1), machine.bytes_per_s("l2", 1)
    busy = PhaseRow.of("gemm", 2e9, 4e9, peak, rate / 2, machine, 1)
    assert (busy.limit, busy.share) == ("peak", 0.5)
    assert busy.bound_ns == pytest.approx(1e9)
    assert busy.efficiency == pytest.approx(0.5)
    assert busy.flops_per_s == pytest.approx(peak / 2)
    moving = PhaseRow.of("input", 4e9, 4e9, peak / 2, rate, machine, 1)
    assert moving.limit == "l2"
    assert moving.efficiency == pytest.approx(0.25)
    still = PhaseRow.of("input", 0.0, 0.0, 0.0, 0.0, machine, 1)
    assert (still.share, still.efficiency, still.flops_per_s) == (0.0, 0.0, 0.0)


def test_layers_of_an_algorithm_are_summed():
    def row(name: str, time_ns: float, flops: float) -> PhaseRow:
        return PhaseRow.of(name, time_ns, 100.0, flops, 0.0, LOCAL, 1)

    one, two = (row("in", 10, 0), row("gemm", 30, 500)), (row("in", 20, 0), row("gemm", 40, 900))
    first, second = sum_phases([("a", one), ("b", one), ("none", ()), ("a", two)], LOCAL, 1)
    assert (first.algorithm, first.layers, first.time_ns) == ("a", 2, 100)
    assert [(phase.name, phase.time_ns, phase.flops) for phase in first.phases] == [("in", 30, 0), ("gemm", 70, 1400)]
    assert [phase.share for phase in first.phases] == pytest.approx([0.3, 0.7])
    assert (second.algorithm, second.layers, second.time_ns) == ("b", 1, 40)


# ---- written forms ----------------------------------------------------------------------------------------------
@pytest.fixture
def report(timed) -> Report:
    return measure(timed("im2col", fused=False), [image(network())], 1, 0.02)


def test_dictionaries_and_json(report: Report):
    facts = report.to_dict()
    assert json.loads(report.to_json()) == facts
    phased = [row for row in facts["rows"] if row["phases"]]
    assert phased
    for row in phased:
        assert [phase["name"] for phase in row["phases"]] == ["patches", "gemm"]
        for phase in row["phases"]:
            assert phase["efficiency"] == pytest.approx(phase["bound_ns"] / phase["time_ns"] if phase["time_ns"] else 0)
    (group,) = facts["phase_sums"]
    assert (group["algorithm"], group["layers"]) == ("im2col", len(phased))
    assert group["time_ns"] == pytest.approx(sum(phase["time_ns"] for row in phased for phase in row["phases"]))


def test_csv_has_one_line_a_layer_unless_phases_are_asked_for(report: Report):
    lines = list(csv.DictReader(io.StringIO(report.to_csv())))
    assert tuple(lines[0]) == FIELDS
    assert [line["name"] for line in lines] == [row.name for row in report.rows]
    more = list(csv.DictReader(io.StringIO(report.to_csv(phases=True))))
    assert set(more[0]) == {*FIELDS, "phase"}
    assert [{k: v for k, v in line.items() if k != "phase"} for line in more if not line["phase"]] == lines
    phases = [(line["name"], line["phase"], float(line["time_ns"])) for line in more if line["phase"]]
    assert phases == [(row.name, phase.name, phase.time_ns) for row in report.rows for phase in row.phases]


def test_tables_show_phases_under_their_layer(report: Report):
    sums = [line for line in str(report).splitlines() if line.startswith("im2col, ")]
    assert len(sums) == 1
    assert "patches" in sums[0]
    assert "% of L2 bandwidth)" in sums[0]
    assert "% of peak)" in sums[0]
    assert sums[0] in report.to_markdown()
    assert "patches" not in report.to_markdown(phases=False)
    table, short = per_layer(report.to_dict()), per_layer(report.to_dict(), phases=False)
    assert [row[0] for row in short.rows] == [row.name for row in report.rows]
    assert sums[0] in table.notes
    assert sums[0] not in short.notes
    names = [row[0] for row in table.rows]
    first = next(row for row in report.rows if row.phases)
    at = names.index(first.name)
    assert names[at + 1 : at + 3] == ["  patches", "  gemm"]
    assert f"{100 * first.phases[1].share:.1f} % of it" in table.rows[at + 2][1]
    lines = str(report).splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith(f"{first.name} "))
    assert lines[at + 1].startswith("  patches")
    assert lines[at + 2].startswith("  gemm")
