"""The threads of this process that run networks: one team, shared by all engines, asleep when there is nothing to do.

The caller of an engine works itself; the team adds helpers. A second caller at the same time finds the team taken and
works alone: there are never more busy threads than callers plus helpers. After `fork` the child starts a team of its
own, because threads do not survive a fork.
"""

from __future__ import annotations

import ctypes
import os
import threading

from waterline.codegen.cpu import walker
from waterline.codegen.cpu.jit import Library, compile_object
from waterline.codegen.cpu.memory import address, aligned_bytes
from waterline.machine import Machine
from waterline.runtime.cache import ObjectCache

_RUN = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)
_SERVE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)


class Team:
    """Helpers that wait for jobs. `run(job)` is called with the address of a job; see `codegen.cpu.walker`."""

    def __init__(self, machine: Machine, cache: ObjectCache) -> None:
        self._library = _walker(machine, cache)
        self._memory = aligned_bytes(walker.TEAM_BYTES)
        self._address = address(self._memory)
        process = ctypes.CDLL(None)
        process.pthread_mutex_init(ctypes.c_void_p(self._address + walker.TEAM_MUTEX), None)
        process.pthread_cond_init(ctypes.c_void_p(self._address + walker.TEAM_CONDITION), None)
        self._run = _RUN(self._library[walker.RUN])
        self._serve = _SERVE(self._library[walker.SERVE])
        self._helpers = 0
        self._lock = threading.Lock()

    def grow(self, helpers: int) -> None:
        """At least so many helpers; each is a daemon thread that never comes back to Python."""
        with self._lock:
            while self._helpers < helpers:
                name = f"waterline-{self._helpers + 1}"
                threading.Thread(target=self._help, args=(self._helpers,), name=name, daemon=True).start()
                self._helpers += 1

    def _help(self, index: int) -> None:
        """The life of a helper. Its frame holds the team: what it waits on is not freed while it waits."""
        self._serve(self._address, index)

    def run(self, job: int) -> None:
        """Runs the job at this address to its end. The GIL is released meanwhile."""
        self._run(self._address, job)


_team: Team | None = None
_team_lock = threading.Lock()


def team(machine: Machine, cache: ObjectCache) -> Team:
    """The team of this process."""
    global _team
    if _team is None:
        with _team_lock:
            if _team is None:
                _team = Team(machine, cache)
    return _team


def _walker(machine: Machine, cache: ObjectCache) -> Library:
    text = walker.emit_walker(machine)
    key = f"walker_{walker.key(text, machine)}"
    code = cache.get(key)
    if code is None:
        code = compile_object(text, machine)
        cache.put(key, code)
    return Library([code], [walker.RUN, walker.SERVE])


def _forget() -> None:
    """In a forked child: the helpers did not come along. The old team is kept: nothing of it is torn down here."""
    global _team, _team_lock
    if _team is not None:
        _abandoned.append(_team)
    _team = None
    _team_lock = threading.Lock()


_abandoned: list[Team] = []
os.register_at_fork(after_in_child=_forget)
