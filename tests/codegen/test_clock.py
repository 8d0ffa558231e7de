"""Counters of a kernel's phases: what laps count, what threads add up, and the instructions that read the time."""

from __future__ import annotations

import ctypes
import threading
import time

import numpy as np
import pytest
from llvmlite import ir
from test_emitter import LOCAL, emitted, run

from waterline.codegen.cpu.clock import COUNTER_BYTES, PhaseClock, add_ticks
from waterline.codegen.cpu.emitter import F64, I64, PTR, Emitter, Value
from waterline.codegen.cpu.jit import Library, compile_assembly, compile_object
from waterline.codegen.cpu.memory import aligned_bytes
from waterline.machine import CATALOGUE, Machine

WORDS = COUNTER_BYTES // 8


def counters(phases: int) -> np.ndarray:
    return aligned_bytes(phases * COUNTER_BYTES).view(np.int64)


def idle(e: Emitter, rounds: int, sink: Value) -> None:
    """A chain of additions, each waiting for the one before."""
    with e.carried_loop(0, rounds, 1, [ir.Constant(F64, 1.0)]) as loop:
        loop.carry([e.builder.fadd(loop.values[0], ir.Constant(F64, 1e-9))])
    e.store(loop.results[0], sink, 0, 8)


def test_laps_share_the_time_as_the_work_does():
    """Three phases of 1 : 2 : 4, forty blocks of each."""

    def body(e: Emitter) -> None:
        clock = PhaseClock(e, e.arguments[0])
        with e.loop(0, 40, name="block"):
            clock.start()
            for phase, rounds in enumerate((10_000, 20_000, 40_000)):
                idle(e, rounds, e.arguments[1])
                clock.lap(phase)
        clock.flush()

    ratios = []
    for _ in range(9):
        found, sink = counters(3), np.zeros(1)
        run(body, found, sink)
        sums = found[::WORDS].astype(float)
        assert (sums > 0).all()
        assert (found.reshape(3, WORDS)[:, 1:] == 0).all()
        ratios.append(sums / sums[0])
    np.testing.assert_allclose(np.median(ratios, axis=0), [1, 2, 4], rtol=0.2)


def test_time_outside_laps_counts_for_no_phase():
    def body(e: Emitter) -> None:
        clock = PhaseClock(e, e.arguments[0])
        clock.start()
        clock.lap(0)
        idle(e, 1_000_000, e.arguments[1])
        clock.start()
        idle(e, 100_000, e.arguments[1])
        clock.lap(1)
        clock.flush()

    found, sink = counters(2), np.zeros(1)
    run(body, found, sink)
    assert 0 <= found[0] < found[WORDS] / 10


def test_a_phase_that_is_never_reached_adds_nothing():
    """Its sum begins at zero although the lap stands in a branch that is not taken."""

    def body(e: Emitter) -> None:
        clock = PhaseClock(e, e.arguments[0])
        clock.start()
        with e.when(e.builder.icmp_signed("<", e.arguments[1], e.index(0))):
            clock.lap(0)
        clock.lap(1)
        clock.flush()

    found = counters(2)
    found[:] = 7
    run(body, found, 5)
    assert found[0] == 7
    assert found[WORDS] >= 7


def test_threads_add_to_the_same_counter_without_loss():
    threads, rounds = 4, 50_000

    def body(e: Emitter) -> None:
        with e.loop(0, rounds):
            add_ticks(e, e.arguments[0], 1, e.index(3))

    found = counters(2)
    members = [threading.Thread(target=run, args=(body, found)) for _ in range(threads)]
    for member in members:
        member.start()
    for member in members:
        member.join()
    assert found[WORDS] == 3 * threads * rounds
    assert found[0] == 0


@pytest.mark.alone
def test_ticks_pass_at_the_rate_of_the_clock():
    """As many a second over a short time as over a long one, asleep or not."""

    def body(e: Emitter) -> None:
        e.store(e.ticks(), e.arguments[0], 0, 8)

    library = Library([compile_object(emitted(body, LOCAL, "ticks_now", [PTR]), LOCAL)], ["ticks_now"])
    function = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(library["ticks_now"])
    word = np.zeros(1, np.int64)

    def now() -> tuple[int, int]:
        function(word.ctypes.data)
        return int(word[0]), time.perf_counter_ns()

    def rate(seconds: float) -> float:
        first, start = now()
        time.sleep(seconds)
        last, end = now()
        return (last - first) / (end - start)

    assert rate(0.05) == pytest.approx(rate(0.2), rel=0.05)


@pytest.mark.parametrize("machine", CATALOGUE, ids=lambda m: m.name)
def test_every_machine_reads_a_counter_that_programs_may_read(machine: Machine):
    module = ir.Module(name="clock")
    module.triple = machine.target()[0]
    e = Emitter(module, machine, "clock", [PTR, I64])
    clock = PhaseClock(e, e.arguments[0])
    clock.start()
    with e.loop(0, e.arguments[1]):
        clock.lap(0)
    clock.flush()
    e.finish()
    assembly = compile_assembly(str(module), machine)
    if machine.arch == "x86_64":
        assert assembly.count("rdtsc") == 2
        assert "lock" in assembly
    else:
        assert assembly.lower().count("cntvct_el0") == 2
        assert "pmccntr_el0" not in assembly.lower()
