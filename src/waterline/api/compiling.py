"""`compile`: from any kind of model to a `CompiledNetwork`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from waterline.api import environment
from waterline.api.engine import CpuEngine, Engine
from waterline.api.network import CompiledNetwork, Source
from waterline.api.options import CPU, parse_device, parse_dtype, parse_options, parse_threads
from waterline.api.support import require_support
from waterline.api.tuning import tuned
from waterline.errors import InvalidArgument
from waterline.frontends import onnx
from waterline.graph import Graph
from waterline.graph.passes import simplify
from waterline.planner import Plan, plan


def compile(
    model: Any,
    example_inputs: Any = None,
    *,
    device: str = "cpu",
    dtype: Any = "float32",
    num_threads: int | None = None,
    options: Mapping[str, Any] | None = None,
) -> CompiledNetwork:
    """Compile a network for this machine.

    Args:
        model: a torch.nn.Module (with `example_inputs`), a torch.export.ExportedProgram, the path or bytes of an ONNX
            file, an onnx.ModelProto, or a waterline Graph.
        example_inputs: tensors of the shapes to compile for. A PyTorch module needs them; an ONNX model where it
            leaves sizes other than the batch open.
        device: "cpu", or "cuda" ("cuda:1", ...) where the extra `gpu` is installed and there is an NVIDIA GPU.
        dtype: "float32"; on a GPU also "float16", "bfloat16" and "tf32" (float32 outside, products of operands with 10
            bits of mantissa).
        num_threads: None means the number of physical cores that the process may use.
        options: `algorithms`, `accuracy`, `block_fusion`, `workspace_bytes`, `tune`; see the documentation.

    Returns:
        The network: call it like the model.

    Raises:
        InvalidModel, UnsupportedOperator: the model cannot be read, or uses what is not computed.
        InvalidArgument: a wrong argument or option. Refused: no allowed algorithm serves a layer.
    """
    environment.verbose()
    engine = make_engine(device, dtype, num_threads)
    checked = parse_options(options, engine.algorithm_names)
    source = read_source(*engine.readable(model, example_inputs))
    source.graph.dtype = engine.dtype
    measured = tuned(source.graph, engine, checked) if checked.is_tuned else None
    return CompiledNetwork(source, engine, checked, measured)


def make_plan(
    model: Any,
    example_inputs: Any = None,
    *,
    device: Any = "cpu",
    dtype: Any = "float32",
    num_threads: int | None = None,
    options: Mapping[str, Any] | None = None,
) -> Plan:
    """What `compile` would run, without compiling; with `tune`, by what was measured so far, measuring nothing.

    Raises:
        What `compile` does.
    """
    engine = make_engine(device, dtype, num_threads)
    checked = parse_options(options, engine.algorithm_names)
    measured = engine.measured_layers().measurements() if checked.is_tuned else None
    graph = read_source(*engine.readable(model, example_inputs)).graph
    graph.dtype = engine.dtype
    return plan(graph, engine.target, checked.plan, measured)


def make_engine(device: Any, dtype: Any, num_threads: int | None) -> Engine:
    """The engine of a device.

    Raises:
        InvalidArgument: there is no such device, it does not compute in such a type, or takes no threads.
    """
    name = parse_device(device)
    kind = parse_dtype(dtype, name)
    if name == CPU:
        machine = environment.machine()
        return CpuEngine(machine, parse_threads(num_threads, machine.cores))
    if num_threads is not None:
        given = f"num_threads is {num_threads!r} with device {name!r}"
        raise InvalidArgument(given, "threads are a CPU's: leave it out")
    from waterline.api import gpu

    return gpu.engine(name, kind)


def read_source(model: Any, example_inputs: Any = None) -> Source:
    """Read and simplify a model of any kind."""
    if isinstance(model, Graph):
        return Source(_ready(model.with_shapes(_example_shapes(model.inputs, example_inputs))))
    if isinstance(model, str | Path | bytes | bytearray) or _is_model_proto(model):
        return _read_onnx(bytes(model) if isinstance(model, bytearray) else model, example_inputs)
    if _is_torch_model(model):
        return _read_torch(model, example_inputs)
    raise InvalidArgument(
        f"{type(model).__name__} is not a model that can be compiled",
        "pass a torch.nn.Module, an ExportedProgram, an ONNX path, bytes or ModelProto, or a waterline Graph",
    )


def _ready(graph: Graph) -> Graph:
    return require_support(simplify(graph))


def _read_onnx(model: Any, example_inputs: Any) -> Source:
    names = [info.name for info in onnx.signature(model).inputs] if example_inputs is not None else []
    shapes = _example_shapes(names, example_inputs)

    def reload(wanted: dict[str, tuple[int, ...]]) -> Graph:
        return _ready(onnx.load(model, wanted))

    return Source(reload(shapes), reload)


def _read_torch(model: Any, example_inputs: Any) -> Source:
    from waterline.frontends import torch

    imported = torch.load(model, example_inputs)
    return Source(_ready(imported.graph), is_traced=True, arrange=imported.arrange, restore=imported.restore)


def _example_shapes(names: Sequence[str], example_inputs: Any) -> dict[str, tuple[int, ...]]:
    if example_inputs is None:
        return {}
    if isinstance(example_inputs, Mapping):
        return {name: tuple(value.shape) for name, value in example_inputs.items()}
    values = example_inputs if isinstance(example_inputs, list | tuple) else [example_inputs]
    if len(values) != len(names):
        raise InvalidArgument(f"got {len(values)} example inputs, the model has {len(names)}: {', '.join(names)}")
    try:
        return {name: tuple(value.shape) for name, value in zip(names, values, strict=True)}
    except AttributeError:
        raise InvalidArgument("example_inputs must be arrays", "pass NumPy arrays or torch tensors") from None


def _is_model_proto(model: Any) -> bool:
    return type(model).__name__ == "ModelProto"


def _is_torch_model(model: Any) -> bool:
    """Whether it is a module or an exported program. Imports nothing: whoever has one has imported PyTorch."""
    kinds = {"torch.nn": "Module", "torch.export": "ExportedProgram"}
    loaded = [getattr(sys.modules[module], kind) for module, kind in kinds.items() if module in sys.modules]
    return isinstance(model, tuple(loaded))
