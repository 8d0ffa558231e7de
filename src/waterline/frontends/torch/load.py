"""`load`: the door of this front end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind, TensorArgument
from torch.utils import _pytree as pytree

from waterline.errors import InvalidArgument
from waterline.frontends.torch.capture import as_arguments, check_inference, functionalize, specialize, trace
from waterline.frontends.torch.importer import Reading, known_tensors, read, refusal
from waterline.graph import Graph

TENSOR = object()  # stands for an argument whose value comes with the call
_ROUNDS = 3  # of decomposing what has no converter: the parts of one operator may have parts themselves


@dataclass(frozen=True)
class Imported:
    """A network and how it is called.

    Attributes:
        graph: its inputs are the tensors among the module's arguments, in order; its outputs the tensors it returns.
    """

    graph: Graph
    _arguments: pytree.TreeSpec
    _returns: pytree.TreeSpec
    _reading: Reading
    _fixed: tuple[Any, ...]

    def arrange(self, *args: Any, **kwargs: Any) -> list[Any]:
        """The tensors among the arguments of a call, in the order of `graph.inputs`.

        Raises:
            InvalidArgument: their structure, or an argument that is not a tensor, is not that of the example inputs.
        """
        order = self._arguments.children()[1].context if self._arguments.children() else []
        kwargs = {**{name: kwargs[name] for name in order or [] if name in kwargs}, **kwargs}
        leaves, structure = pytree.tree_flatten((args, kwargs))
        if structure != self._arguments:
            raise InvalidArgument(
                f"the arguments are {_describe(structure)}, the network was compiled for {_describe(self._arguments)}",
                "pass the same arguments as in example_inputs",
            )
        for leaf, fixed in zip(leaves, self._fixed, strict=True):
            if fixed is not TENSOR and (type(leaf) is not type(fixed) or leaf != fixed):
                raise InvalidArgument(
                    f"an argument is {leaf!r}, the network was compiled for {fixed!r}",
                    "compile it again for this value",
                )
        return [leaf for leaf, fixed in zip(leaves, self._fixed, strict=True) if fixed is TENSOR]

    def restore(self, outputs: Sequence[Any]) -> Any:
        """What the module returns (a tensor, tuple, list, dict, dataclass ...) from the tensors of `graph.outputs`."""
        return pytree.tree_unflatten(self._reading.arrange(outputs), self._returns)


def load(model: torch.nn.Module | ExportedProgram, example_inputs: Any = None, name: str | None = None) -> Imported:
    """Read a PyTorch model.

    Args:
        model: a module (an `fx.GraphModule` is one) or an exported program. Modules are traced by `torch.export`.
        example_inputs: a tensor, a tuple of positional arguments or a dict of named ones; NumPy arrays will do.
            Their shapes are the graph's; `Graph.with_shapes` gives it for others. A program has its own already.
        name: of the graph; by default the module's class.

    The graph's constants share the memory of the module's parameters. A tensor that the module changes in place is
    not changed by the graph.

    Raises:
        UnsupportedOperator: what is not computed, all of it in one message with the places in the module.
        InvalidArgument: no example inputs; a dtype other than float32; operators in training mode.
        InvalidModel: torch.export fails, or the module keeps state between calls.
    """
    if isinstance(model, ExportedProgram):
        program = specialize(model, example_inputs)
    elif isinstance(model, torch.nn.Module):
        if example_inputs is None:
            raise InvalidArgument("a torch.nn.Module needs example_inputs", "pass the tensors that model(...) takes")
        args, kwargs = as_arguments(example_inputs)
        program = trace(model, args, kwargs)
    else:
        raise InvalidArgument(f"{type(model).__name__} is neither a torch.nn.Module nor an ExportedProgram")
    program, reading = read_program(program, name or type(model).__name__)
    if reading.graph is None:
        raise refusal(reading.refused)
    spec = program.call_spec
    return Imported(reading.graph, spec.in_spec, spec.out_spec, reading, _fixed_arguments(program))


def read_program(program: ExportedProgram, name: str) -> tuple[ExportedProgram, Reading]:
    """Read a program; what has no converter is replaced by its decomposition where PyTorch has one."""
    check_inference(program)
    program = functionalize(program)
    reading = _read(program, name)
    for _ in range(_ROUNDS):
        table = torch.export.default_decompositions() if reading.refused else {}
        targets = {node.target for node in reading.refused}
        known = {target: table[target] for target in targets if target in table}
        if not known:
            break
        program = functionalize(program.run_decompositions(known))
        reading = _read(program, name)
    return program, reading


def _read(program: ExportedProgram, name: str) -> Reading:
    specs = program.graph_signature.output_specs
    returned = [i for i, spec in enumerate(specs) if spec.kind == OutputKind.USER_OUTPUT]
    return read(program.graph_module, known_tensors(program), returned, name)


def _fixed_arguments(program: ExportedProgram) -> tuple[Any, ...]:
    """For every argument of a call TENSOR, or the number, string or None that the trace took it for."""
    specs = [spec for spec in program.graph_signature.input_specs if spec.kind == InputKind.USER_INPUT]
    return tuple(TENSOR if isinstance(spec.arg, TensorArgument) else spec.arg.value for spec in specs)


def _describe(structure: pytree.TreeSpec) -> str:
    """`(args, {names})` with a star for every leaf."""
    return str(pytree.tree_unflatten(["*"] * structure.num_leaves, structure)).replace("'*'", "*")
