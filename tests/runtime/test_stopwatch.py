"""Rates of repeated work, alone and in a team."""

import threading
import time

import pytest

from waterline.runtime.stopwatch import best_rate, best_team_rate

pytestmark = pytest.mark.alone


def sleep(thread: int) -> int:
    time.sleep(0.002)
    return 10


def test_best_rate():
    calls = []

    def work(thread: int) -> int:
        calls.append(thread)
        time.sleep(0.001 if len(calls) == 3 else 0.06)
        return 6

    assert 100 < best_rate(work, 0.25) <= 6000  # the run of 1 ms counts, however late it was woken
    assert set(calls) == {0}


def test_runs_at_least_once():
    assert best_rate(sleep, 0.0) > 0
    assert best_team_rate(sleep, 0.0, 2).elapsed > 0


def test_team_rate():
    seen = set()

    def work(thread: int) -> int:
        seen.add((thread, threading.get_ident()))
        return sleep(thread)

    rate = best_team_rate(work, 0.03, 3)
    assert len(seen) == 3
    assert 3 * 1000 < rate.elapsed <= 3 * 5000
    assert rate.running > rate.elapsed  # the threads slept: almost no processor time
    assert not rate.is_undisturbed  # which looks like other programs having the processors


def test_an_error_in_a_thread_is_raised():
    def work(thread: int) -> int:
        if thread == 1:
            raise ValueError("broken")
        return sleep(thread)

    with pytest.raises(ValueError, match="broken"):
        best_team_rate(work, 0.02, 3)
