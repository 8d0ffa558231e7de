"""What this machine's cores really do: peak f32 rate and read bandwidth, measured once and kept as JSON.

The result belongs to one host, one set of features and one version of the product, and is measured again after a week.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import math
import mmap
import platform
import threading
import time
from collections.abc import Callable
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from waterline.codegen.cpu.probes import Probes, flops_per_iteration, load_probes, read_step_bytes
from waterline.machine import Bandwidth, Machine, available_memory_bytes
from waterline.runtime.cache import read_trusted, write_atomically
from waterline.runtime.stopwatch import best_rate, best_team_rate

_log = logging.getLogger(__name__)

FORMAT = 1
MAX_AGE_S = 7 * 86400.0
PROVISIONAL_AGE_S = 600.0  # of rates with a note: other programs ran, or memory was short

_RUN_S = 0.5e-3  # of one timed run: far above the clock's resolution, below the scheduler's time slice
_SMALLEST_BUFFER_BYTES, _LARGEST_BUFFER_BYTES = 64 << 20, 512 << 20
_measuring = threading.Lock()  # two measurements at once would measure each other


def calibrate(
    machine: Machine,
    cache_dir: Path | None,
    *,
    force: bool = False,
    on_progress: Callable[[str], None] | None = None,
) -> Machine:
    """`machine` with measured rates: the stored ones where they are still good, else new ones (about a second).

    Args:
        machine: the one that runs, or a restriction of it.
        cache_dir: where the rates are kept; None: nowhere. A folder that cannot be written is logged, nothing more.
        force: measure even if there are good rates.
        on_progress: called with a line of text before each measurement.
    """
    key = _identity(machine)
    path = None if cache_dir is None else cache_dir / _file_name(key)
    with _measuring:
        stored = None if path is None or force else _load(path, key, time.time())
        if stored is not None:
            return replace(machine, **stored)
        rates, lifetime_s = _measure(machine, on_progress or (lambda text: None))
        if path is not None:
            _store(path, {"key": key, "time_s": time.time(), "lifetime_s": lifetime_s, "rates": rates})
        return replace(machine, **rates)


def measure_peak(machine: Machine, seconds: float = 0.02, threads: int = 1) -> float:
    """f32 operations a second, now: of one core, or of `threads` cores together.

    Benchmarks call this between kernels, so that both see the same clock. The loop is compiled once in a process.
    """
    probes = load_probes(machine)
    iterations = max(1, int(machine.estimated_peak() * _RUN_S / flops_per_iteration(machine)))

    def work(thread: int) -> int:
        return probes.multiply_add(iterations)

    return best_rate(work, seconds) if threads == 1 else best_team_rate(work, seconds, threads).running


# ---- measuring ------------------------------------------------------------------------------------------------------
def _measure(machine: Machine, on_progress: Callable[[str], None]) -> tuple[dict[str, Any], float]:
    """The fields of `Machine` that calibration fills, and for how many seconds they are good."""
    on_progress("peak of one core")
    peak = measure_peak(machine, 0.1)
    on_progress(f"peak of {machine.cores} cores")
    peak_all = peak if machine.cores == 1 else measure_peak(machine, 0.1, machine.cores)
    bandwidth, note = _measure_bandwidth(machine, on_progress)
    date = time.strftime("%Y-%m-%d", time.gmtime())
    rates = {
        "peak_flops_per_s": peak,
        "peak_all_flops_per_s": peak_all,
        "bandwidth": bandwidth,
        "provenance": f"measured {date} by waterline {_version()}{note}",
    }
    return rates, PROVISIONAL_AGE_S if note else MAX_AGE_S


def _measure_bandwidth(machine: Machine, on_progress: Callable[[str], None]) -> tuple[Bandwidth, str]:
    """The rates, and what is to be said about them."""
    note = ""
    probes = load_probes(machine)
    step = read_step_bytes(machine)
    l2_bytes, l3_bytes, dram_bytes = buffer_sizes(machine, step)
    buffer, reaches_memory = _allocate(max(l2_bytes, l3_bytes), dram_bytes)
    try:
        on_progress("bandwidth of L2")
        l2 = _read_rate(probes, buffer.address, l2_bytes, 0.05)
        on_progress("bandwidth of L3")
        l3 = _read_rate(probes, buffer.address, l3_bytes, 0.08) if l3_bytes else l2
        if not reaches_memory:
            estimate = Bandwidth.estimated(machine.clock_hz)
            dram, dram_all = min(estimate.dram, l3), min(estimate.dram_all, l3 * machine.cores)
            note = " (memory bandwidth estimated: too little memory was free)"
            return Bandwidth(l2, l3 if l3_bytes else dram, dram, max(dram, dram_all)), note
        on_progress("bandwidth of memory")
        dram = dram_all = _read_rate(probes, buffer.address, dram_bytes, 0.1)
        if machine.cores > 1:
            share = max(step, dram_bytes // machine.cores // step * step)
            last = dram_bytes - share

            def read_share(thread: int) -> int:
                return _read(probes, buffer.address + min(thread * share, last), share, 1)

            together = best_team_rate(read_share, 0.1, machine.cores)
            dram_all, note = (
                max(dram, together.elapsed),
                "" if together.is_undisturbed else " (while other programs ran)",
            )
        return Bandwidth(l2, max(l3, dram) if l3_bytes else dram, dram, dram_all), note
    finally:
        buffer.close()


def buffer_sizes(machine: Machine, step_bytes: int) -> tuple[int, int, int]:
    """Bytes to read, in whole steps, so that L2, L3 and memory answer; 0 for an L3 that is not there.

    Half a cache stays clear of what else lives in it; 8 L2 are enough for L3, of which other cores use the rest. Memory
    takes four L3: of less, much would still be found there.
    """
    l2, l3 = machine.l2_bytes, machine.l3_bytes
    sizes = (
        l2 // 2,
        min(max(2 * l2, l3 // 2), 8 * l2) if l3 > l2 else 0,
        min(max(4 * l3, 16 * l2, _SMALLEST_BUFFER_BYTES), _LARGEST_BUFFER_BYTES),
    )
    whole = [max(step_bytes, size // step_bytes * step_bytes) if size else 0 for size in sizes]
    return whole[0], whole[1], whole[2]


class _Buffer:
    """Page-aligned memory that was written to, in huge pages where the system has them, as the engine's own memory."""

    def __init__(self, bytes_: int) -> None:
        if hasattr(mmap, "MAP_PRIVATE"):  # shared memory, the default, gets no huge pages
            self._map = mmap.mmap(-1, bytes_, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        else:
            self._map = mmap.mmap(-1, bytes_)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            try:
                self._map.madvise(mmap.MADV_HUGEPAGE)
            except OSError as error:  # kernels without huge pages: the rates are those of small ones
                _log.info("no huge pages for calibration: %s", error)
        self._array: np.ndarray | None = np.frombuffer(self._map, np.uint8)
        self._array.fill(1)  # pages never written to all share one page of zeros, which stays in L1
        self.address = self._array.ctypes.data

    def close(self) -> None:
        self._array = None
        self._map.close()


def _allocate(small_bytes: int, large_bytes: int) -> tuple[_Buffer, bool]:
    """The large buffer if that is at most a quarter of the free memory, else the small one; whether it is large."""
    available = available_memory_bytes()
    if available is None or large_bytes <= available // 4:
        try:
            return _Buffer(large_bytes), True
        except OSError as error:  # a limit on address space
            _log.info("no %d bytes for calibration: %s", large_bytes, error)
    return _Buffer(small_bytes), False


def _read(probes: Probes, address: int, bytes_: int, repeats: int) -> int:
    probes.read(address, bytes_, repeats)
    return bytes_ * repeats


def _read_rate(probes: Probes, address: int, bytes_: int, seconds: float) -> float:
    repeats = max(1, int(_RUN_S * 20e9) // bytes_)
    return best_rate(lambda thread: _read(probes, address, bytes_, repeats), seconds)


# ---- keeping --------------------------------------------------------------------------------------------------------
@cache
def _version() -> str:
    return importlib.metadata.version("waterline")


def _identity(machine: Machine) -> dict[str, Any]:
    """What the rates depend on. Rates of another identity are stale."""
    return {
        "format": FORMAT,
        "waterline": _version(),
        "host": platform.node(),
        "kernel": platform.release(),
        "arch": machine.arch,
        "features": sorted(machine.features),
        "caches": [machine.l1d_bytes, machine.l2_bytes, machine.l3_bytes],
        "cores": machine.cores,
    }


def _file_name(key: dict[str, Any]) -> str:
    """One file a host, set of features and number of cores: restricted machines keep their rates side by side."""
    lasting = [key[name] for name in ("host", "arch", "features", "cores")]
    return f"calibration-{hashlib.blake2b(json.dumps(lasting).encode(), digest_size=8).hexdigest()}.json"


def _load(path: Path, key: dict[str, Any], now: float) -> dict[str, Any] | None:
    """The stored rates as fields of `Machine`, unless they are missing, stale or damaged."""
    try:
        record = json.loads(read_trusted(path))
        age = now - float(record["time_s"])
        rates = record["rates"]
        if record["key"] != key or not 0 <= age <= min(_positive(record["lifetime_s"]), MAX_AGE_S):
            return None
        bandwidth = Bandwidth(**{field.name: _positive(rates["bandwidth"][field.name]) for field in fields(Bandwidth)})
        return {
            "peak_flops_per_s": _positive(rates["peak_flops_per_s"]),
            "peak_all_flops_per_s": _positive(rates["peak_all_flops_per_s"]),
            "bandwidth": bandwidth,
            "provenance": str(rates["provenance"]),
        }
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        _log.warning("ignoring the calibration in %s: %s", path, error)
        return None


def _positive(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(f"{value!r} is not a rate")
    return float(value)


def _store(path: Path, record: dict[str, Any]) -> None:
    try:
        write_atomically(path, json.dumps(record, indent=1, default=vars).encode())
    except OSError as error:
        _log.warning("the calibration cannot be kept and will be measured again: %s", error)
