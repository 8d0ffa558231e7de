"""Timing, on a clock that the test moves: order, warm-up, budgets and statistics are exact."""

from __future__ import annotations

import gc
from collections.abc import Callable

import numpy as np
import pytest

from waterline.bench.timing import (
    Clock,
    Protocol,
    Ratio,
    Timing,
    geometric_mean,
    interleave,
    quantile,
    wait_until_quiet,
)
from waterline.errors import InvalidArgument

MS = 1_000_000


class Simulation:
    """Time that only calls and sleeps move; processor time that goes on for a while after a call with `spin_ns`."""

    def __init__(self) -> None:
        self.now = 0
        self.used = 0
        self.spinning_until = 0
        self.log: list[str] = []

    @property
    def clock(self) -> Clock:
        return Clock(lambda: self.now, lambda: self.used, self.sleep)

    def sleep(self, seconds: float) -> None:
        before = self.now
        self.now += int(seconds * 1e9)
        self.used += max(0, min(self.now, self.spinning_until) - before)

    def call(self, name: str, durations_ns: list[int] | int, spin_ns: int = 0) -> Callable[[], None]:
        """Takes the durations in turn, the last one for ever."""
        remaining = [durations_ns] if isinstance(durations_ns, int) else list(durations_ns)

        def run() -> None:
            self.log.append(name)
            duration = remaining.pop(0) if len(remaining) > 1 else remaining[0]
            self.now += duration
            self.used += duration
            self.spinning_until = self.now + spin_ns

        return run


def test_samples_are_the_durations() -> None:
    simulation = Simulation()
    variants = {"fast": simulation.call("fast", 2 * MS), "slow": simulation.call("slow", 6 * MS)}
    timings = interleave(variants, Protocol(seconds=0.5), clock=simulation.clock)
    assert set(timings["fast"].samples_ns) == {2 * MS}
    assert timings["slow"].median_ns == timings["slow"].p10_ns == timings["slow"].p90_ns == 6 * MS
    assert len(timings["fast"].rounds) == len(timings["slow"].rounds)
    assert Ratio.between(timings["slow"], timings["fast"]) == Ratio(3.0, 3.0, 3.0)


def test_every_round_has_every_variant_and_the_order_differs() -> None:
    simulation = Simulation()
    names = ("a", "b", "c")
    protocol = Protocol(seconds=1.0, burst_s=1e-9, least_calls=1)
    interleave({name: simulation.call(name, 5 * MS) for name in names}, protocol, clock=simulation.clock)
    turns = simulation.log[12:]  # twelve calls find out how long they take
    assert turns[::2] == turns[1::2]  # one call that is not timed, one that is
    rounds = [tuple(turns[i : i + 6 : 2]) for i in range(0, len(turns), 6)]
    assert len(rounds) >= 5
    assert all(sorted(round_) == list(names) for round_ in rounds)
    assert len(set(rounds)) > 1


def test_a_slow_first_call_is_not_measured() -> None:
    simulation = Simulation()
    call = simulation.call("a", [900 * MS, 50 * MS, 10 * MS])
    timing = interleave({"a": call}, Protocol(seconds=0.2), clock=simulation.clock)["a"]
    assert set(timing.samples_ns) == {10 * MS}


def test_calls_shorter_than_the_clock_are_timed_together() -> None:
    simulation = Simulation()
    timing = interleave({"a": simulation.call("a", 100)}, Protocol(seconds=0.05), clock=simulation.clock)["a"]
    assert set(timing.samples_ns) == {100.0}


def test_a_drift_of_the_machine_does_not_move_the_ratio() -> None:
    """A machine that becomes three times slower on the way: medians of all samples move, ratios do not."""
    simulation = Simulation()

    def drifting(factor: int) -> Callable[[], None]:
        def run() -> None:
            simulation.now += factor * MS * (1 if simulation.now < 600 * MS else 3)

        return run

    timings = interleave({"a": drifting(4), "b": drifting(8)}, Protocol(seconds=1.2), clock=simulation.clock)
    ratio = Ratio.between(timings["b"], timings["a"])
    assert (ratio.p10, ratio.median) == (2.0, 2.0)
    assert timings["a"].p90_ns > 2 * timings["a"].p10_ns


def test_the_budget_and_the_least_number_of_rounds() -> None:
    simulation = Simulation()
    protocol = Protocol(seconds=1.0, least_rounds=3)
    assert len(interleave({"a": simulation.call("a", 400 * MS)}, protocol, clock=simulation.clock)["a"].rounds) == 3
    start = simulation.now
    interleave({"a": simulation.call("a", 4 * MS)}, protocol, clock=simulation.clock)
    assert 1.0 <= (simulation.now - start) / 1e9 < 1.2


def test_a_call_of_seconds_is_made_once_a_round() -> None:
    simulation = Simulation()
    protocol = Protocol(seconds=1.0, least_rounds=2)
    timing = interleave({"a": simulation.call("a", 3000 * MS)}, protocol, clock=simulation.clock)["a"]
    assert timing.rounds == [[3000 * MS], [3000 * MS]]
    assert len(simulation.log) == 2 + 2  # two to find out, and two samples without warm-up


def test_spinning_threads_are_waited_for() -> None:
    simulation = Simulation()
    starts: list[bool] = []
    spinner = simulation.call("spinner", 3 * MS, spin_ns=40 * MS)

    def other() -> None:
        starts.append(simulation.now >= simulation.spinning_until)
        simulation.now += 3 * MS

    protocol = Protocol(seconds=1.0)
    interleave({"spinner": spinner, "other": other}, protocol, clock=simulation.clock)
    assert all(starts[4:])  # the first four find out how long a call takes


def test_waiting_gives_up_on_a_process_that_never_rests() -> None:
    simulation = Simulation()
    simulation.spinning_until = 10**12
    assert not wait_until_quiet(simulation.clock)
    assert simulation.now < 1e9


def test_each_round_is_told() -> None:
    simulation = Simulation()
    told: list[tuple[int, float]] = []
    peaks: list[int] = []
    interleave(
        {"a": simulation.call("a", 30 * MS)},
        Protocol(seconds=0.6),
        each_round=lambda: peaks.append(1),
        on_round=lambda count, share: told.append((count, share)),
        clock=simulation.clock,
    )
    assert [count for count, _ in told] == list(range(1, len(peaks) + 1))
    assert told[-1][1] == 1.0


def test_the_collector_is_off_while_measuring_and_on_again_afterwards() -> None:
    states: list[bool] = []
    simulation = Simulation()

    def call() -> None:
        states.append(gc.isenabled())
        simulation.now += MS

    interleave({"a": call}, Protocol(seconds=0.01), clock=simulation.clock)
    assert gc.isenabled()
    assert not any(states[4:])

    def failing() -> None:
        simulation.now += MS
        if simulation.now > 20 * MS:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        interleave({"a": failing}, Protocol(seconds=10.0), clock=simulation.clock)
    assert gc.isenabled()


def test_quantiles_are_numpys() -> None:
    random = np.random.default_rng(7)
    for count in (1, 2, 3, 10, 101):
        values = random.standard_normal(count).tolist()
        for share in (0.0, 0.1, 0.5, 0.9, 1.0):
            assert quantile(values, share) == pytest.approx(np.quantile(values, share), abs=1e-12)
    with pytest.raises(InvalidArgument):
        quantile([], 0.5)


def test_geometric_mean() -> None:
    assert geometric_mean([1.0, 4.0]) == pytest.approx(2.0)


def test_ratios_compare_rounds_of_equal_number() -> None:
    with pytest.raises(ValueError, match="longer"):
        Ratio.between(Timing("a", [[1.0]]), Timing("b", [[1.0], [2.0]]))


@pytest.mark.parametrize("arguments", [{"seconds": 0}, {"seconds": float("nan")}, {"least_rounds": 0}])
def test_a_protocol_without_time_is_refused(arguments: dict) -> None:
    with pytest.raises(InvalidArgument):
        Protocol(**arguments)


def test_the_real_clock() -> None:
    timing = interleave({"sum": lambda: sum(range(2000))}, Protocol(seconds=0.05))["sum"]
    assert 1e3 < timing.p10_ns <= timing.median_ns <= timing.p90_ns < 1e8
