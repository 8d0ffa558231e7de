"""Compiling many kernels at once, before they are needed: compilation takes seconds, and a processor has many cores."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

from triton import AsyncCompileMode

from waterline.codegen.gpu.kernel import GpuLaunch, is_interpreted

_log = logging.getLogger(__name__)


def compile_ahead(launches: Iterable[tuple[GpuLaunch, str]], seconds: float | None = None) -> int:
    """Compiles for this process's GPU on all cores: Triton's compiler lets go of Python's lock.

    What has not been begun after `seconds` (None: whatever it takes) is left to the first run, and so is what fails,
    which then says why. Every tenth of the work is logged.

    Args:
        launches: each with the precision of its layer's tensors.

    Returns:
        How many kernels there were to compile.
    """
    if is_interpreted():
        return 0
    workers = len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(workers) as pool, AsyncCompileMode(pool, ignore_errors=True) as mode:
        for launch, precision in launches:
            try:
                launch.warm(precision)
            except Exception as error:
                _log.warning("%s is left to its first run: %s", launch.function.__name__, error)
        asked = list(mode.raw_futures)
        _log.info("compiling %d kernels in %d threads", len(asked), workers)
        _report(asked)
        for future in wait(asked, timeout=seconds).not_done:
            future.cancel()
    return len(asked)


def _report(futures: Sequence[Future[Any]]) -> None:
    """Logs each tenth that is done."""
    done = itertools.count(1)

    def count(_: Future[Any]) -> None:
        number = next(done)
        if number * 10 // len(futures) > (number - 1) * 10 // len(futures):
            _log.info("%d of %d kernels are compiled", number, len(futures))

    for future in futures:
        future.add_done_callback(count)


__all__ = ["compile_ahead"]
