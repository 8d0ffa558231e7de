"""Locks and `fork`: only the forking thread comes along; a lock that another one held would stay shut in the child."""

from __future__ import annotations

import os
import threading
import weakref
from types import TracebackType


class RenewedLock:
    """A lock that is open in a forked child. For state that is never half changed while it is held."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        _all.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._lock.release()


_all: weakref.WeakSet[RenewedLock] = weakref.WeakSet()


def _renew() -> None:
    for lock in _all:
        lock._lock = threading.Lock()


os.register_at_fork(after_in_child=_renew)
