"""Where the process meets its surroundings: environment variables, the machine, the cache folder. Only here.

| variable | meaning |
|---|---|
| `WATERLINE_CACHE_DIR` | folder of compiled kernels and measurements; empty: keep nothing on disk |
| `WATERLINE_ISA` | the most that may be used: `avx512`, `avx2`, `avx`, `sse2` or `neon` |
| `WATERLINE_VERBOSE` | comma-separated: `dispatch` logs each layer's algorithm, `profile` each call's time |
"""

from __future__ import annotations

import functools
import logging
import os
from pathlib import Path

import waterline
from waterline.errors import InvalidArgument
from waterline.machine import Machine, detect
from waterline.runtime.cache import ObjectCache, default_cache_dir
from waterline.runtime.calibration import calibrate
from waterline.runtime.measured_layers import MeasuredLayers, fingerprint

VERBOSE_TOPICS = ("dispatch", "profile")


@functools.cache
def machine() -> Machine:
    """This machine, capped by `WATERLINE_ISA` and calibrated (measured once, then read from the cache)."""
    cap = os.environ.get("WATERLINE_ISA") or None
    return calibrate(detect(cap), cache_folder())


def cache_folder() -> Path | None:
    """Where what is measured and compiled is kept; None: nowhere."""
    return default_cache_dir(os.environ)


@functools.cache
def object_cache() -> ObjectCache:
    folder = cache_folder()
    return ObjectCache(None if folder is None else folder / "kernels", waterline.__version__)


@functools.cache
def measured_layers() -> MeasuredLayers:
    """What tuning has measured on this machine with this version."""
    return MeasuredLayers(cache_folder(), fingerprint(machine(), waterline.__version__))


@functools.cache
def verbose() -> frozenset[str]:
    """Topics of `WATERLINE_VERBOSE`; they are logged to standard error."""
    topics = frozenset(filter(None, os.environ.get("WATERLINE_VERBOSE", "").split(",")))
    unknown = topics - set(VERBOSE_TOPICS)
    if unknown:
        raise InvalidArgument(
            f"WATERLINE_VERBOSE names {', '.join(sorted(unknown))}", f"accepted: {', '.join(VERBOSE_TOPICS)}"
        )
    if topics:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("waterline: %(message)s"))
        log = logging.getLogger("waterline")
        log.addHandler(handler)
        log.setLevel(logging.INFO)
    return topics
