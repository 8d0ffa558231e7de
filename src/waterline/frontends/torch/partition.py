"""A program of which only parts are supported: those parts as graphs, the rest left to PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx.passes.infra.partitioner import CapabilityBasedPartitioner
from torch.fx.passes.operator_support import OperatorSupportBase

from waterline.frontends.torch.importer import Reading, known_tensors, read
from waterline.graph import Graph
from waterline.graph.ops import Conv, ConvTranspose, Linear, MatMul, Pool

_WORTHWHILE = (Conv, ConvTranspose, Linear, MatMul, Pool)  # a part without any of these costs more calls than it saves

Engine = Callable[..., Sequence[torch.Tensor]]


def is_worthwhile(graph: Graph) -> bool:
    return any(isinstance(node.op, _WORTHWHILE) for node in graph.nodes)


def partition(
    program: ExportedProgram, refused: Mapping[fx.Node, str], build: Callable[[Graph], Engine]
) -> Callable[..., Sequence[Any]] | None:
    """Replace the supported parts of a functional program by what `build` makes of them.

    Args:
        refused: the nodes of `program` that are not supported, as `read` reports them.
        build: takes the graph of a part; what it returns is called with the part's tensors and returns a sequence.

    Returns:
        A function of the program's user inputs that returns its outputs in order, or None where no part is worthwhile.
    """
    module = program.graph_module
    known = known_tensors(program)
    parts = CapabilityBasedPartitioner(module, _Support(refused, known), allows_single_node_partition=True)
    fused = parts.fuse_partitions(parts.propose_partitions(), prefix="waterline_part_")
    engines = 0
    for node in fused.graph.nodes:
        if node.op != "call_module" or not str(node.target).startswith("waterline_part_"):
            continue
        part = fused.get_submodule(node.target)
        reading = _read_part(part, node, known)
        if reading.graph is not None and is_worthwhile(reading.graph):
            setattr(fused, node.target, _Part(part, reading, build(reading.graph)))
            engines += 1
    if not engines:
        return None
    fused.recompile()
    arguments = [
        None if spec.kind == InputKind.USER_INPUT else known[spec.arg.name][1]
        for spec in program.graph_signature.input_specs
    ]

    def run(*tensors: Any) -> Sequence[Any]:
        given = iter(tensors)
        with torch.no_grad():
            return fused(*[next(given) if x is None else x for x in arguments])

    return run


def _read_part(part: fx.GraphModule, call: fx.Node, known: Mapping[str, tuple[str, torch.Tensor]]) -> Reading:
    """Read a part; those of its inputs that are constants of the whole program are constants of the part."""
    placeholders = [node for node in part.graph.nodes if node.op == "placeholder"]
    mine = {
        inside.name: known[outside.name]
        for inside, outside in zip(placeholders, call.args, strict=True)
        if isinstance(outside, fx.Node) and outside.name in known
    }
    output = next(node for node in part.graph.nodes if node.op == "output")
    is_single = isinstance(output.args[0], fx.Node)
    if is_single:
        output.args = ((output.args[0],),)
    reading = read(part, mine, name=str(call.target))
    if is_single:
        output.args = (output.args[0][0],)
    return reading


class _Support(OperatorSupportBase):
    """What goes into parts: operators that were converted, with float32 tensors or constants for inputs."""

    def __init__(self, refused: Mapping[fx.Node, str], known: Mapping[str, object]) -> None:
        self.refused, self.known = refused, known

    def is_node_supported(self, submodules: Mapping[str, torch.nn.Module], node: fx.Node) -> bool:
        if node.op != "call_function" or node in self.refused:
            return False
        if not isinstance(node.target, torch._ops.OpOverload):  # getitem goes with what it takes from
            source = node.args[0] if node.args else None
            return isinstance(source, fx.Node) and self.is_node_supported(submodules, source)
        values = [x.meta.get("val") for x in node.all_input_nodes if x.name not in self.known]
        return bool(values) and all(isinstance(x, torch.Tensor) and x.dtype == torch.float32 for x in values)


class _Part(torch.nn.Module):
    """An engine in the place of a part of the program."""

    def __init__(self, part: fx.GraphModule, reading: Reading, engine: Engine) -> None:
        super().__init__()
        assert reading.graph is not None
        names = [node.name for node in part.graph.nodes if node.op == "placeholder"]
        self.positions = [names.index(name) for name in reading.graph.inputs]
        self.is_single = isinstance(next(n for n in part.graph.nodes if n.op == "output").args[0], fx.Node)
        self.reading, self.engine = reading, engine

    def forward(self, *arguments: Any) -> Any:
        results = self.reading.arrange(self.engine(*[arguments[i] for i in self.positions]))
        return results[0] if self.is_single else tuple(results)
