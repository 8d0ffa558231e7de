"""The GPU of this process: what PyTorch's driver reports of it, and its measured rates."""

from __future__ import annotations

import json
import logging
import math
import re
import time
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from waterline.codegen.gpu.kernel import is_interpreted
from waterline.errors import InvalidArgument
from waterline.machine.gpu import H200, PRECISIONS, Gpu
from waterline.runtime.cache import read_trusted, write_atomically
from waterline.runtime.gpu.timing import Repeated

_log = logging.getLogger(__name__)

# What kernels are laid out for in the interpreter, which runs blocks one after the other: few of them.
INTERPRETED = replace(H200, name="Triton's interpreter", multiprocessors=2)
PEAK_SIZE = 8192  # of the matrices whose product is the measured peak
COPIED_BYTES = 1 << 30
RUNS = 5
MAX_AGE_S = 7 * 86400.0


@dataclass(frozen=True)
class Device:
    """Where tensors live, and what computes on them. In the interpreter that is the CPU, with no GPU behind it."""

    torch_device: torch.device
    gpu: Gpu

    @property
    def is_interpreted(self) -> bool:
        return self.torch_device.type == "cpu"


def find_device(name: str) -> Device:
    """ "cuda" or "cuda:1".

    Raises:
        InvalidArgument: no such GPU.
    """
    match = re.fullmatch(r"cuda(?::(\d+))?", name)
    if match is None:
        raise InvalidArgument(f"device {name!r} is not known", "accepted: cpu, cuda, cuda:0, cuda:1, ...")
    if is_interpreted():
        return Device(torch.device("cpu"), INTERPRETED)
    if not torch.cuda.is_available():
        built = "" if torch.version.cuda else ", this PyTorch was built without CUDA"
        raise InvalidArgument(f"device {name!r}: PyTorch finds no NVIDIA GPU{built}", "pass device='cpu'")
    count = torch.cuda.device_count()
    index = torch.cuda.current_device() if match[1] is None else int(match[1])
    if index >= count:
        raise InvalidArgument(f"device {name!r}: there are {count} GPUs", "they are counted from cuda:0 on")
    return Device(torch.device("cuda", index), describe(index))


@lru_cache(maxsize=16)
def describe(index: int) -> Gpu:
    """The GPU of that number, as the driver reports it."""
    found = torch.cuda.get_device_properties(index)
    return Gpu(
        name=found.name,
        capability=(found.major, found.minor),
        multiprocessors=found.multi_processor_count,
        shared_bytes=found.shared_memory_per_block_optin,
        l2_bytes=found.L2_cache_size,
        clock_hz=1e3 * found.clock_rate,
        # Two transfers a clock on as many wires.
        memory_bytes_per_s=2 * 1e3 * found.memory_clock_rate * found.memory_bus_width / 8,
        provenance="reported by the driver",
    )


# ---- measured rates -------------------------------------------------------------------------------------------------
def calibrated(device: Device, folder: Path | None, version: str) -> Device:
    """The device with measured rates: those kept in `folder` if they are of this GPU and version and a week old at
    most, else new ones. The interpreter has none."""
    if device.is_interpreted:
        return device
    path = None if folder is None else folder / "calibration-gpu.json"
    key = [device.gpu.name, device.gpu.multiprocessors, version, torch.__version__]
    kept = _load(path)
    entry = kept.get(device.gpu.name)
    if entry is None or not _is_good(entry, key):
        try:
            entry = {"key": key, "time_s": time.time(), "rates": measure_rates(device)}
        except torch.OutOfMemoryError:
            _log.warning("%s has too little free memory to be calibrated: the driver's rates count", device.gpu.name)
            return device
        if path is not None:
            try:
                write_atomically(path, json.dumps({**kept, device.gpu.name: entry}, indent=1).encode())
            except OSError as error:
                _log.warning("the calibration cannot be kept and will be measured again: %s", error)
    return replace(device, gpu=with_rates(device.gpu, entry["rates"], version, entry["time_s"]))


def _is_good(entry: Any, key: list[Any]) -> bool:
    """Whether an entry of the file is what `calibrated` writes, of this key and not too old."""
    if not isinstance(entry, dict) or entry.get("key") != key or not isinstance(entry.get("rates"), dict):
        return False
    rates = [entry["rates"].get(name) for name in (*PRECISIONS, "memory")]
    if not all(isinstance(rate, float) and 0 < rate < math.inf for rate in rates):
        return False
    time_s = entry.get("time_s")
    return isinstance(time_s, float) and 0 <= time.time() - time_s <= MAX_AGE_S


def with_rates(gpu: Gpu, rates: dict[str, float], version: str, time_s: float) -> Gpu:
    date = time.strftime("%Y-%m-%d", time.gmtime(time_s))
    return replace(
        gpu,
        memory_bytes_per_s=rates["memory"],
        measured_flops_per_s=tuple((name, rates[name]) for name in PRECISIONS),
        provenance=f"measured {date} by waterline {version} with PyTorch's matrix product and copy",
    )


def measure_rates(device: Device) -> dict[str, float]:
    """Operations a second of PyTorch's matrix product in each precision, and bytes a second of a copy."""
    rates = {name: matrix_peak(device, name) for name in PRECISIONS}
    source = torch.empty(COPIED_BYTES, dtype=torch.int8, device=device.torch_device)
    target = torch.empty_like(source)
    copy = Repeated(lambda: _void(target.copy_(source)), 4, device.torch_device)
    rates["memory"] = 2.0 * COPIED_BYTES / min(copy.seconds() for _ in range(RUNS))
    return rates


def matrix_peak(device: Device, precision: str, size: int = PEAK_SIZE) -> float:
    """Operations a second of a product of square matrices."""
    types: dict[str, Any] = {"f16": torch.float16, "bf16": torch.bfloat16}
    a = torch.randn(size, size, device=device.torch_device).to(types.get(precision, torch.float32))
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    try:
        product = Repeated(lambda: _void(a @ a), 4, device.torch_device)
        return float(2.0 * size**3 / min(product.seconds() for _ in range(RUNS)))
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def _void(_: torch.Tensor) -> None:
    """A result that nobody reads."""


def _load(path: Path | None) -> dict[str, Any]:
    """What is kept, {} where it cannot be read."""
    try:
        found = {} if path is None else json.loads(read_trusted(path))
        return found if isinstance(found, dict) else {}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        _log.warning("ignoring the calibration in %s: %s", path, error)
        return {}


__all__ = ["INTERPRETED", "Device", "calibrated", "describe", "find_device", "matrix_peak", "measure_rates"]
