"""The one place that knows how to time: several variants in one run, interleaved in rounds.

A shared machine drifts: clocks, neighbours and temperature change from second to second. So variants are never timed
one after the other. A round runs every variant once, in an order that differs from round to round (a fixed seed), and a
variant's turn is: wait until the process is quiet, one call that is not timed, a burst of timed calls. What is compared
are the medians of one round, so that a slow second slows all of them.

*Quiet*: thread pools of other engines spin after a call, for a fraction of a millisecond (ONNX Runtime, libgomp) up to
200 ms (Intel's OpenMP), and would steal cores from the next variant. Their settings stay as they are, because stopping
the spinning would slow the engine itself; instead a turn begins only when the process has stopped using processor time.
"""

from __future__ import annotations

import gc
import math
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from waterline.errors import InvalidArgument

Call = Callable[[], object]

SHORTEST_SAMPLE_NS = 20_000  # calls that are shorter are timed several at a time: the clock itself takes 50 ns
_QUIET_STEP_S = 0.002
_QUIET_SHARE = 0.2  # of one core, over a step
_QUIET_LIMIT_S = 0.5


@dataclass(frozen=True)
class Clock:
    """Where time comes from; tests put their own here."""

    now_ns: Callable[[], int] = time.perf_counter_ns
    processor_ns: Callable[[], int] = time.process_time_ns
    sleep: Callable[[float], None] = time.sleep


@dataclass(frozen=True)
class Protocol:
    """How long and how often.

    Attributes:
        seconds: budget of all variants together, warm-up not counted.
        least_rounds: are run even if the budget is spent.
        most_rounds: are enough, whatever the budget.
        burst_s: the timed calls of one turn take about this long together.
        least_calls: of one turn, unless they would take more than `longest_turn_s`.
        seed: of the order of variants.
    """

    seconds: float = 2.0
    least_rounds: int = 5
    most_rounds: int = 1000
    burst_s: float = 0.02
    least_calls: int = 3
    longest_turn_s: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.seconds < math.inf:
            raise InvalidArgument(f"seconds={self.seconds}: the time to measure is a positive number")
        if not 1 <= self.least_rounds <= self.most_rounds:
            raise InvalidArgument(f"{self.least_rounds} to {self.most_rounds} rounds: at least one is needed")


@dataclass
class Timing:
    """What was measured of one variant. Nanoseconds of one call."""

    name: str
    rounds: list[list[float]] = field(default_factory=list)

    @property
    def samples_ns(self) -> list[float]:
        """In the order of measurement."""
        return [sample for samples in self.rounds for sample in samples]

    @property
    def median_ns(self) -> float:
        return quantile(self.samples_ns, 0.5)

    @property
    def p10_ns(self) -> float:
        return quantile(self.samples_ns, 0.1)

    @property
    def p90_ns(self) -> float:
        return quantile(self.samples_ns, 0.9)


@dataclass(frozen=True)
class Ratio:
    """How many times as long as `of` the other took: the median over rounds, and its spread."""

    median: float
    p10: float
    p90: float

    @classmethod
    def between(cls, other: Timing, of: Timing) -> Ratio:
        """Round by round, median by median."""
        pairs = zip(other.rounds, of.rounds, strict=True)
        ratios = [statistics.median(a) / statistics.median(b) for a, b in pairs]
        return cls(quantile(ratios, 0.5), quantile(ratios, 0.1), quantile(ratios, 0.9))


def quantile(values: Sequence[float], share: float) -> float:
    """Linear between the two nearest values, as NumPy's."""
    if not values:
        raise InvalidArgument("there are no samples")
    ordered = sorted(values)
    position = share * (len(ordered) - 1)
    low = math.floor(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


def geometric_mean(values: Sequence[float]) -> float:
    return math.exp(statistics.fmean(math.log(value) for value in values))


def interleave(
    variants: Mapping[str, Call],
    protocol: Protocol | None = None,
    *,
    each_round: Call | None = None,
    on_round: Callable[[int, float], None] | None = None,
    clock: Clock | None = None,
) -> dict[str, Timing]:
    """Time the variants against each other.

    Args:
        variants: name -> a call that does the work once. Everything that may happen once only has happened before.
        each_round: done once a round, untimed, as a turn of its own (the benchmarks measure the machine's peak there).
        on_round: told after each round how many are done and which share of the budget is spent.

    Returns:
        name -> its samples, with equally many rounds for each.
    """
    protocol = protocol or Protocol()
    clock = clock or Clock()
    timings = {name: Timing(name) for name in variants}
    turns = {name: _Turn(call, _first_duration_ns(call, clock), protocol) for name, call in variants.items()}
    order = list(variants)
    shuffler = random.Random(protocol.seed)
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()  # a collection in the middle of a sample is not the variant's work
    try:
        start = clock.now_ns()
        for count in range(1, protocol.most_rounds + 1):
            if each_round is not None:
                wait_until_quiet(clock)
                each_round()
            shuffler.shuffle(order)
            for name in order:
                wait_until_quiet(clock)
                timings[name].rounds.append(turns[name].run(clock))
            spent = (clock.now_ns() - start) / 1e9 / protocol.seconds
            if on_round is not None:
                on_round(count, min(1.0, spent))
            if count >= protocol.least_rounds and spent >= 1:
                break
    finally:
        if was_enabled:
            gc.enable()
    return timings


def wait_until_quiet(clock: Clock) -> bool:
    """Sleep until no thread of this process computes any more; False if they have not stopped after half a second."""
    deadline = clock.now_ns() + _QUIET_LIMIT_S * 1e9
    while clock.now_ns() < deadline:
        wall, used = clock.now_ns(), clock.processor_ns()
        clock.sleep(_QUIET_STEP_S)
        if clock.processor_ns() - used <= _QUIET_SHARE * (clock.now_ns() - wall):
            return True
    return False


class _Turn:
    """One variant's turn in a round."""

    def __init__(self, call: Call, duration_ns: float, protocol: Protocol) -> None:
        self._call = call
        self._repeats = max(1, math.ceil(SHORTEST_SAMPLE_NS / duration_ns))
        sample_ns = duration_ns * self._repeats
        self._warm_up = sample_ns < protocol.longest_turn_s * 1e9
        if sample_ns * protocol.least_calls > protocol.longest_turn_s * 1e9:
            self._count = 1
        else:
            self._count = max(protocol.least_calls, int(protocol.burst_s * 1e9 / sample_ns))

    def run(self, clock: Clock) -> list[float]:
        call, repeats = self._call, self._repeats
        if self._warm_up:
            for _ in range(repeats):
                call()
        samples = []
        for _ in range(self._count):
            start = clock.now_ns()
            for _ in range(repeats):
                call()
            samples.append((clock.now_ns() - start) / repeats)
        return samples


def _first_duration_ns(call: Call, clock: Clock) -> float:
    """Of one call, after one to warm up. A few are tried, as the first may still page in code and data."""
    call()
    durations: list[int] = []
    begin = clock.now_ns()
    while len(durations) < 3 and clock.now_ns() - begin < 1e9:
        start = clock.now_ns()
        call()
        durations.append(max(1, clock.now_ns() - start))
    return min(durations)
