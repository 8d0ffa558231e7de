"""Rates of work that may be repeated, on machines where other programs run too.

A disturbance only ever makes a run slower, so the best of many short runs is taken.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

Work = Callable[[int], int]  # does something for the thread of that number, returns how much it did

_WINDOW_NS = 8e6  # of several threads: far above the time that it takes to wake them
_UNDISTURBED = 0.9  # of the window, in which the threads must have been running

# Processor time of the calling thread; some systems count it in ticks that are too coarse, then elapsed time has to do.
_IS_FINE = time.get_clock_info("thread_time").resolution < 1e-5
_running_ns: Callable[[], int] = time.thread_time_ns if _IS_FINE else time.perf_counter_ns


@dataclass(frozen=True)
class TeamRate:
    """What several threads did in a second.

    Attributes:
        running: the sum of every thread's rate while it had a processor: right for work that shares nothing, even if
            other programs took the processors for a part of the time.
        elapsed: all work by the time on the wall: right for work that shares something, in an undisturbed window.
        is_undisturbed: whether there was a window in which all threads had processors; `elapsed` is then of such a one.
    """

    running: float
    elapsed: float
    is_undisturbed: bool


def best_rate(work: Work, seconds: float) -> float:
    """The best rate of `work(0)`, repeated for about `seconds` and at least once after a first run to warm up."""
    work(0)
    end = time.perf_counter() + seconds
    best = 0.0
    while best == 0.0 or time.perf_counter() < end:
        start = time.perf_counter_ns()
        amount = work(0)
        best = max(best, amount * 1e9 / max(1, time.perf_counter_ns() - start))
    return best


def best_team_rate(work: Work, seconds: float, threads: int) -> TeamRate:
    """The best rates of `threads` threads that call `work(thread)` again and again, for about `seconds`.

    Raises:
        whatever `work` raises in one of the threads.
    """
    team = _Team(work, seconds, threads)
    members = [threading.Thread(target=team.run, args=(thread,), daemon=True) for thread in range(threads)]
    for member in members:
        member.start()
    for member in members:
        member.join()
    if team.errors:
        raise team.errors[0]
    return TeamRate(team.running, team.undisturbed or team.elapsed, team.undisturbed > 0)


@dataclass(frozen=True)
class _Share:
    """One thread's part of a window; times in nanoseconds."""

    amount: int
    start: int
    stop: int
    running: int


class _Team:
    """Threads that work in windows: all begin together, and the results of a window are judged before the next."""

    def __init__(self, work: Work, seconds: float, threads: int) -> None:
        self.work = work
        self.end = time.perf_counter() + seconds
        self.errors: list[BaseException] = []
        self.running = self.elapsed = self.undisturbed = 0.0
        self._shares: list[_Share | None] = [None] * threads
        self._is_over = False
        self._barrier = threading.Barrier(threads, action=self._judge)  # one thread judges, the others wait

    def run(self, thread: int) -> None:
        try:
            self._barrier.wait()
            while not self._is_over:
                self._shares[thread] = self._window(thread)
                self._barrier.wait()
        except threading.BrokenBarrierError:
            pass  # another thread failed, and its error is reported
        except BaseException as error:
            self.errors.append(error)
            self._barrier.abort()

    def _window(self, thread: int) -> _Share:
        amount = 0
        running = _running_ns()
        start = stop = time.perf_counter_ns()
        while stop - start < _WINDOW_NS:
            amount += self.work(thread)
            stop = time.perf_counter_ns()
        return _Share(amount, start, stop, max(1, _running_ns() - running))

    def _judge(self) -> None:
        shares = [share for share in self._shares if share is not None]
        if not shares:
            return  # nothing has run yet
        span = max(share.stop for share in shares) - min(share.start for share in shares)
        elapsed = sum(share.amount for share in shares) * 1e9 / span
        self.running = max(self.running, sum(share.amount * 1e9 / share.running for share in shares))
        self.elapsed = max(self.elapsed, elapsed)
        if sum(share.running for share in shares) >= _UNDISTURBED * span * len(shares):
            self.undisturbed = max(self.undisturbed, elapsed)
        self._is_over = time.perf_counter() >= self.end
