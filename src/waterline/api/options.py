"""Options of `compile`: names, values, and answers to mistakes."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from waterline.algorithms import BLOCK_REGISTRY, REGISTRY
from waterline.algorithms.base import ACCURACIES
from waterline.errors import InvalidArgument
from waterline.planner import PlanOptions

DTYPES = {"float32": "f32", "f32": "f32"}
# On a GPU; "tf32" is float32 outside and rounds what it multiplies to 10 bits of mantissa.
GPU_DTYPES = {
    **DTYPES,
    "float16": "f16",
    "f16": "f16",
    "half": "f16",
    "bfloat16": "bf16",
    "bf16": "bf16",
    "tf32": "tf32",
}
CPU, CUDA = "cpu", "cuda"
# What `tune=True` may take: enough for a network like ResNet-50 on two cores, its kernels compiled.
TUNE_SECONDS = 30.0
KNOWN = "known"  # the value of `tune` that measures nothing
# name -> what it accepts, for messages.
NAMES = {
    "algorithms": "a list of names of waterline.algorithms()",
    "accuracy": "'strict', 'default' or 'fast'",
    "block_fusion": "True or False",
    "workspace_bytes": "a positive whole number",
    "tune": "False, True, seconds or 'known'",
}


@dataclass(frozen=True)
class Options:
    """What the caller asked for, checked.

    Attributes:
        is_tuned: whether measured times decide. tune_seconds: to measure what is missing; 0 measures nothing.
    """

    plan: PlanOptions
    tune_seconds: float = 0.0
    is_tuned: bool = False


def cpu_algorithms() -> list[str]:
    """Names and variants."""
    names = [algorithm.name for algorithm in (*REGISTRY, *BLOCK_REGISTRY)]
    return names + [f"{algorithm.name}:{variant}" for algorithm in REGISTRY for variant in algorithm.variants]


def parse_options(options: Mapping[str, Any] | None, algorithm_names: Sequence[str] | None = None) -> Options:
    """Options checked; `algorithm_names` are those that may be allowed (None: a CPU's).

    Raises:
        InvalidArgument: an unknown name (with the closest one), or a wrong value.
    """
    if options is not None and not isinstance(options, Mapping):
        raise InvalidArgument(f"options is {options!r}", f"pass a dictionary of {', '.join(NAMES)}")
    options = dict(options or {})
    for name in options:
        if name not in NAMES:
            close = difflib.get_close_matches(str(name), NAMES, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"accepted: {', '.join(NAMES)}"
            raise InvalidArgument(f"unknown option {name!r}", hint)
    accuracy = options.get("accuracy", "default")
    if accuracy not in ACCURACIES:
        raise _wrong("accuracy", accuracy)
    if not isinstance(options.get("block_fusion", True), bool):
        raise _wrong("block_fusion", options["block_fusion"])
    tune = options.get("tune", False)
    workspace = options.get("workspace_bytes")
    if workspace is not None and (isinstance(workspace, bool) or not isinstance(workspace, int) or workspace < 1):
        raise _wrong("workspace_bytes", workspace)
    fuses = options.get("block_fusion", True)
    allowed = _algorithms(options.get("algorithms"), algorithm_names or cpu_algorithms())
    chosen = PlanOptions(allowed, accuracy, workspace, fuses)
    return Options(chosen, _tune_seconds(tune), is_tuned=bool(tune))


def _tune_seconds(tune: Any) -> float:
    if isinstance(tune, str) and tune == KNOWN:
        return 0.0
    if not isinstance(tune, bool | int | float) or not tune >= 0:
        raise _wrong("tune", tune)
    return TUNE_SECONDS if tune is True else float(tune)


def _algorithms(names: Any, known: Sequence[str]) -> tuple[str, ...]:
    if names is None:
        return ()
    if isinstance(names, str):
        names = [names]
    try:
        names = tuple(names)
    except TypeError:
        raise _wrong("algorithms", names) from None
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(str(name), known, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"accepted: {', '.join(known)}"
            raise InvalidArgument(f"unknown algorithm {name!r}", hint)
    if not names:
        raise _wrong("algorithms", names)
    return names


def parse_dtype(dtype: Any, device: str = CPU) -> str:
    """The element type in the short names of specs. Accepts "float32", numpy.float32 and torch.float32; on a GPU also
    float16, bfloat16 and "tf32"."""
    name = dtype if isinstance(dtype, str) else str(getattr(dtype, "__name__", dtype)).removeprefix("torch.")
    if device == CPU:
        if name not in DTYPES:
            more = ", and with device='cuda' float16, bfloat16, tf32" if name in GPU_DTYPES else ""
            raise InvalidArgument(f"dtype {name!r} is not computed on CPUs", f"accepted: float32{more}")
        return DTYPES[name]
    if name not in GPU_DTYPES:
        raise InvalidArgument(f"dtype {name!r} is not computed on GPUs", "accepted: float32, tf32, float16, bfloat16")
    return GPU_DTYPES[name]


def parse_device(device: Any) -> str:
    """ "cpu", or "cuda" and "cuda:N" where Triton is installed."""
    name = str(device)
    if name == CPU:
        return name
    if name.partition(":")[0] != CUDA:
        raise InvalidArgument(f"device {name!r} is not served", "accepted: cpu, cuda, cuda:0, cuda:1, ...")
    for package in ("torch", "triton"):
        if find_spec(package) is None:
            raise InvalidArgument(
                f"device {name!r} needs the package {package}, which is not installed",
                "install Waterline with its extra `gpu` (on Linux), or pass device='cpu'",
            )
    return name


def parse_threads(num_threads: Any, cores: int) -> int:
    """None means every physical core that the process may use."""
    if num_threads is None:
        return cores
    if isinstance(num_threads, bool) or not isinstance(num_threads, int) or not 1 <= num_threads <= 1024:
        raise InvalidArgument(
            f"num_threads is {num_threads!r}", "pass a whole number from 1 to 1024, or None for the physical cores"
        )
    return num_threads


def _wrong(name: str, value: Any) -> InvalidArgument:
    return InvalidArgument(f"option {name} is {value!r}", f"accepted: {NAMES[name]}")
