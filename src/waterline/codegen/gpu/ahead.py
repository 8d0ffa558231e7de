"""Compiling many kernels at once, before they are needed: compilation takes seconds, and a processor has many cores."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, wait

from triton.runtime._async_compile import AsyncCompileMode

from waterline.codegen.gpu.kernel import GpuLaunch, is_interpreted

_log = logging.getLogger(__name__)


def compile_ahead(launches: Iterable[tuple[GpuLaunch, str]], seconds: float) -> int:
    """Compiles for this process's GPU on all cores: Triton's compiler lets go of Python's lock.

    What has not been begun after `seconds` is left to the first run, and so is what fails, which then says why.

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
        for future in wait(asked, timeout=seconds).not_done:
            future.cancel()
    return len(asked)


__all__ = ["compile_ahead"]
