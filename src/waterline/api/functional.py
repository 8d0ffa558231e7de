"""`conv2d` with PyTorch's signature, and the list of algorithms."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np

from waterline.algorithms import BLOCK_REGISTRY, REGISTRY
from waterline.api import environment
from waterline.api.arrays import like, to_numpy
from waterline.api.engine import CpuEngine
from waterline.api.network import CompiledNetwork, Source
from waterline.api.options import parse_options, parse_threads
from waterline.errors import InvalidArgument
from waterline.graph import Graph, Node
from waterline.graph.ops import Conv
from waterline.runtime.locks import RenewedLock
from waterline.spec import ConvSpec, Epilogue

# Layers that `conv2d` keeps compiled, by shape and weights.
LAYERS_KEPT = 16
_layers: OrderedDict[tuple[Any, ...], tuple[CompiledNetwork, np.ndarray, np.ndarray | None]] = OrderedDict()
_lock = RenewedLock()


def algorithms() -> list[str]:
    """Names of the algorithms: what computes several layers together, then those of one layer in registry order."""
    return [algorithm.name for algorithm in (*BLOCK_REGISTRY, *REGISTRY)]


def conv2d(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] | str = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
    *,
    algorithm: str = "auto",
    num_threads: int | None = None,
) -> Any:
    """A two-dimensional convolution, as `torch.nn.functional.conv2d` defines it.

    Args:
        x: (N, C, H, W), or (C, H, W) for one image. weight: (K, C / groups, R, S). bias: (K,) or None.
        padding: zeros on each side, or "valid" (none), or "same" (stride 1 only).
        algorithm: "auto", or a name of `algorithms()`.

    Returns:
        (N, K, P, Q), or (K, P, Q), in the caller's kind of array.

    Raises:
        InvalidArgument: shapes or arguments that do not fit. Refused: the algorithm does not serve the layer.
    """
    data, filters = to_numpy(x, "x"), to_numpy(weight, "weight")
    shift = None if bias is None else to_numpy(bias, "bias")
    if data.ndim not in (3, 4):
        raise InvalidArgument(f"x has shape {data.shape}", "pass (N, C, H, W) or (C, H, W)")
    if filters.ndim != 4:
        raise InvalidArgument(f"weight has shape {filters.shape}", "pass (K, C / groups, R, S)")
    images = data if data.ndim == 4 else data[None]
    spec = _spec(images, filters, shift, stride, padding, dilation, groups)
    results = _layer(spec, filters, shift, algorithm, num_threads).run_arrays([images])[0]
    return like(results if data.ndim == 4 else results[0], x)


def _spec(
    images: np.ndarray,
    filters: np.ndarray,
    shift: np.ndarray | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: Any,
) -> ConvSpec:
    k, group_c, r, s = filters.shape
    n, c, h, w = images.shape
    strides, dilations = _pair(stride, "stride", 1), _pair(dilation, "dilation", 1)
    if isinstance(groups, bool) or not isinstance(groups, int) or groups < 1:
        raise InvalidArgument(f"groups is {groups!r}", "pass a whole number of at least 1")
    if c != group_c * groups or k % groups:
        raise InvalidArgument(
            f"x has {c} channels, weight {filters.shape} with groups={groups} needs {group_c * groups} "
            f"and a multiple of {groups} outputs"
        )
    if shift is not None and shift.shape != (k,):
        raise InvalidArgument(f"bias has shape {shift.shape}", f"pass ({k},)")
    pad = _padding(padding, (r, s), strides, dilations)
    return ConvSpec(n, c, h, w, k, r, s, strides, pad, dilations, groups, epilogue=Epilogue(bias=shift is not None))


def _padding(
    padding: Any, taps: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int]
) -> tuple[int, int, int, int]:
    if padding == "valid":
        return (0, 0, 0, 0)
    if padding == "same":
        if stride != (1, 1):
            raise InvalidArgument(
                f"padding 'same' with stride {stride}", "use stride 1, or give the padding in numbers"
            )
        total = [d * (t - 1) for d, t in zip(dilation, taps, strict=True)]
        return (total[0] // 2, total[1] // 2, total[0] - total[0] // 2, total[1] - total[1] // 2)
    if isinstance(padding, str):
        raise InvalidArgument(f"padding is {padding!r}", "pass a number, a pair, 'valid' or 'same'")
    rows, columns = _pair(padding, "padding", 0)
    return (rows, columns, rows, columns)


def _pair(value: Any, name: str, least: int) -> tuple[int, int]:
    values = (value,) * 2 if isinstance(value, int | np.integer) else tuple(value) if _is_sequence(value) else ()
    if len(values) == 1:
        values = values * 2
    if len(values) != 2 or not all(isinstance(v, int | np.integer) and v >= least for v in values):
        raise InvalidArgument(f"{name} is {value!r}", f"pass one or two whole numbers of at least {least}")
    return int(values[0]), int(values[1])


def _is_sequence(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _layer(
    spec: ConvSpec, filters: np.ndarray, shift: np.ndarray | None, algorithm: str, num_threads: int | None
) -> CompiledNetwork:
    """The compiled layer, kept for the next call with the same shape and the same weights (by value)."""
    options = parse_options({} if algorithm == "auto" else {"algorithms": [algorithm]})
    machine = environment.machine()
    threads = parse_threads(num_threads, machine.cores)
    key = (spec, algorithm, threads)
    with _lock:
        kept = _layers.get(key)
        if kept is not None and np.array_equal(kept[1], filters) and _equal(kept[2], shift):
            _layers.move_to_end(key)
            return kept[0]
    constants = {"weight": filters.copy()} | ({} if shift is None else {"bias": shift.copy()})
    op = Conv(spec.stride, spec.pad, spec.dilation, spec.groups, spec.epilogue)
    node = Node("conv2d", op, ("x", *constants), ("y",))
    graph = Graph("conv2d", ["x"], ["y"], [node], {"x": (spec.n, spec.c, spec.h, spec.w)}, constants).infer()
    layer = CompiledNetwork(Source(graph), CpuEngine(machine, threads), options)
    with _lock:
        _layers[key] = (layer, constants["weight"], constants.get("bias"))
        while len(_layers) > LAYERS_KEPT:
            _layers.popitem(last=False)
    return layer


def _equal(a: np.ndarray | None, b: np.ndarray | None) -> bool:
    return (a is None) == (b is None) and (a is None or b is None or np.array_equal(a, b))
