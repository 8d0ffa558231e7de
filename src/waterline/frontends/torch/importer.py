"""`read`: the nodes of an exported program, one after the other, into a `Graph`."""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.utils import _pytree as pytree

from waterline.errors import InvalidArgument, InvalidModel, UnsupportedOperator
from waterline.frontends.torch.builder import Builder, Unsupported, Value
from waterline.frontends.torch.operators import find
from waterline.graph import Graph
from waterline.graph.ops import Shape

_DYNAMO_ROOT = re.compile(r"^L\['\w+'\]\.?")  # how TorchDynamo calls the module that it traces
_NO_RESULT = {"aten._assert_tensor_metadata.default", "aten._assert_async.msg", "aten._assert_scalar.default"}
# Calls of a part of the program under another grad or autocast mode, and the position of that part among the arguments.
# A dtype that autocast brings in is seen at the operators inside.
_REGIONS = {"wrap_with_set_grad_enabled": 1, "wrap_with_autocast": 4}


@dataclass
class Reading:
    """What became of a program.

    Attributes:
        graph: the network, or None where something is refused.
        results: what the program returns, in order: the name of a graph output, or a plain Python value.
        refused: node of the program -> why it is not converted (empty: the operator is unknown).
    """

    graph: Graph | None
    results: list[Any]
    refused: dict[fx.Node, str] = field(default_factory=dict)

    def arrange(self, outputs: Sequence[Any]) -> list[Any]:
        """What the program returns, in order, from the tensors of `graph.outputs`."""
        assert self.graph is not None
        values = dict(zip(self.graph.outputs, outputs, strict=True))
        return [values[x.name] if isinstance(x, Result) else x for x in self.results]


@dataclass(frozen=True)
class Result:
    """A program's output that is computed: the name of a tensor of the graph."""

    name: str


def known_tensors(program: ExportedProgram) -> dict[str, tuple[str, torch.Tensor]]:
    """The parameters, buffers and constants of a program: placeholder -> (name in the module, tensor)."""
    tensors = {**program.state_dict, **program.constants}
    return {
        spec.arg.name: (spec.target, tensors[spec.target])
        for spec in program.graph_signature.input_specs
        if spec.kind != InputKind.USER_INPUT and isinstance(tensors.get(spec.target), torch.Tensor)
    }


def read(
    program: fx.GraphModule,
    known: Mapping[str, tuple[str, torch.Tensor]],
    returned: Sequence[int] | None = None,
    name: str = "torch",
) -> Reading:
    """Convert `program`: ATen operators without visible side effects, whose nodes carry the values of the trace.

    Args:
        known: placeholder or get_attr node -> (name for the graph, tensor): parameters, buffers and constants.
        returned: which of the program's outputs the caller gets; None for all.

    Raises:
        InvalidArgument: an input has a dtype other than float32.
        InvalidModel: a constant has a dtype that Waterline does not read.
    """
    reader = _Reader(known)
    outputs = reader.walk(program)
    if returned is not None:
        outputs = [outputs[i] for i in returned]
    results = [Result(x.name) if isinstance(x, Value) else x for x in outputs]
    if reader.refused:
        return Reading(None, results, reader.refused)
    b = reader.builder
    names = list(dict.fromkeys(x.name for x in outputs if isinstance(x, Value)))
    for x in outputs:
        if isinstance(x, Value) and x.constant is not None:
            b.enter(x)
    shapes: dict[str, Shape] = {x.name: x.shape for x in reader.inputs}
    graph = Graph(name, [x.name for x in reader.inputs], names, b.nodes, shapes, b.constants).infer()
    return Reading(_without_dead_nodes(graph), results)


def refusal(refused: Mapping[fx.Node, str], hint: str = "") -> UnsupportedOperator:
    """One error that names every operator and every node."""
    groups: dict[str, dict[str, None]] = {}
    for node, reason in refused.items():
        title = operator_name(node) + (f" [{reason}]" if reason else "")
        groups.setdefault(title, {})[label_of(node)] = None  # once each, in order
    listed = "; ".join(f"{title} at {', '.join(nodes)}" for title, nodes in groups.items())
    count = len(groups)
    return UnsupportedOperator(
        f"{count} operator{'s are' if count > 1 else ' is'} not supported: {listed}",
        hint or "torch.compile(model, backend='waterline') runs what is supported and leaves the rest to PyTorch",
    )


class _Reader:
    """The state of one pass over a program."""

    def __init__(self, known: Mapping[str, tuple[str, torch.Tensor]]) -> None:
        self.builder = Builder()
        self.known = known
        self.values: dict[fx.Node, Any] = {}
        self.inputs: list[Value] = []
        self.refused: dict[fx.Node, str] = {}

    def walk(self, program: fx.GraphModule, arguments: Sequence[Any] | None = None) -> list[Any]:
        """What a program returns: the whole one, or with `arguments` one that another calls."""
        live = _live(program.graph)
        given = None if arguments is None else iter(arguments)
        outputs: list[Any] = []
        for node in program.graph.nodes:
            if node.op == "output":
                outputs = list(fx.map_arg(node.args[0], lambda n: self.values[n]))
            elif node.op == "placeholder" and given is not None:
                self.values[node] = next(given)
            elif node in live:
                self._visit(node, program)
        return outputs

    def _visit(self, node: fx.Node, program: fx.GraphModule) -> None:
        if node.op == "get_attr" and isinstance(getattr(program, str(node.target), None), fx.GraphModule):
            self.values[node] = getattr(program, str(node.target))
        elif node.op in ("placeholder", "get_attr"):
            self.values[node] = self._entering(node)
        elif node.op == "call_function":
            try:
                self.values[node] = self._call(node)
            except Unsupported as reason:
                self._refuse(node, str(reason))
            except InvalidModel as error:
                self._refuse(node, error.message)
        else:
            self._refuse(node, "")

    def _entering(self, node: fx.Node) -> Any:
        if node.name in self.known:
            name, tensor = self.known[node.name]
            return self.builder.constant(tensor, name)
        example = node.meta.get("val")
        if not isinstance(example, torch.Tensor):
            return example  # a number that was passed in, fixed by the trace
        if example.dtype != torch.float32 and node.users:
            raise InvalidArgument(
                f"input {node.name!r} is {str(example.dtype).removeprefix('torch.')}; Waterline reads float32"
            )
        value = self.builder.input(node.name, tuple(example.shape))
        self.inputs.append(value)
        return value

    def _refuse(self, node: fx.Node, reason: str) -> None:
        """Note the reason and go on with a stand-in, so that every refusal is found in one pass."""
        self.refused[node] = reason

        def stand_in(example: Any) -> Any:
            is_tensor = isinstance(example, torch.Tensor)
            return Value(self.builder.unique(node.name), tuple(example.shape)) if is_tensor else example

        self.values[node] = pytree.tree_map(stand_in, node.meta.get("val"))

    # ---- one call -----------------------------------------------------------------------------------------------
    def _call(self, node: fx.Node) -> Any:
        args = fx.map_arg(node.args, lambda n: self.values[n])
        kwargs = fx.map_arg(node.kwargs, lambda n: self.values[n])
        target: Any = node.target
        if target is operator.getitem:
            source: Any = node.args[0]
            if args[0][args[1]] is None:
                self._refuse(source, f"its result {args[1]} is used")
            return self.values[source][args[1]]
        if str(target) in _NO_RESULT:
            return None
        if str(target) in _REGIONS:
            position = _REGIONS[str(target)]
            return self.walk(args[position], args[position + 1 :])
        if not isinstance(target, torch._ops.OpOverload):
            raise Unsupported("")
        self.builder.label = label_of(node)
        values = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Value)]
        if any(not isinstance(size, int) for x in values for size in x.shape):
            raise Unsupported("the shape of its argument depends on values")
        if all(x.constant is not None for x in values):
            return self._fold(node, target, args, kwargs)
        converter = find(_short_name(target))
        if converter is None:
            raise Unsupported("")
        examples = [x for x in pytree.tree_leaves(node.meta.get("val")) if isinstance(x, torch.Tensor)]
        odd = next((x.dtype for x in examples[:1] if x.dtype != torch.float32), None)
        if odd is not None:
            raise Unsupported(f"its result is {str(odd).removeprefix('torch.')}; Waterline computes float32")
        if not all(isinstance(size, int) for x in examples for size in x.shape):
            raise Unsupported("the shape of its result depends on values")
        self.builder.out_shape = tuple(examples[0].shape) if len(examples) == 1 else ()
        result = converter(self.builder, *bind(target, args, kwargs))
        self._check(node, result)
        return result

    def _fold(self, node: fx.Node, target: Any, args: Any, kwargs: Any) -> Any:
        """Everything is known: PyTorch computes it now."""
        if torch.Tag.nondeterministic_seeded in target.tags:
            raise Unsupported("it draws random numbers")

        def tensor(x: Any) -> Any:
            if not isinstance(x, Value):
                return x
            assert x.constant is not None
            return x.constant.clone() if target._schema.is_mutable else x.constant.detach()

        with torch.no_grad():
            result = target(*pytree.tree_map(tensor, args), **pytree.tree_map(tensor, kwargs))
        self.builder.label = node.name
        return pytree.tree_map(lambda x: self.builder.constant(x) if isinstance(x, torch.Tensor) else x, result)

    def _check(self, node: fx.Node, result: Any) -> None:
        """A converter that disagrees with PyTorch about a shape must not go unnoticed."""
        results = result if isinstance(result, (tuple, list)) else [result]
        example = node.meta.get("val")
        examples = example if isinstance(example, (tuple, list)) else [example]
        for got, want in zip(results, examples, strict=False):
            if isinstance(got, Value) and isinstance(want, torch.Tensor) and got.shape != tuple(want.shape):
                raise InvalidModel(f"the shape {got.shape} was derived where PyTorch has {tuple(want.shape)}")


def bind(target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    """Every argument of the operator's schema in order, with defaults filled in."""
    values = []
    for position, argument in enumerate(target._schema.arguments):
        if position < len(args):
            values.append(args[position])
        elif argument.name in kwargs:
            values.append(kwargs[argument.name])
        else:
            values.append(argument.default_value)
    return values


def operator_name(node: fx.Node) -> str:
    return str(node.target) if node.op == "call_function" else f"{node.op} {node.target}"


def label_of(node: fx.Node) -> str:
    """Where in the module a node comes from: `layer1.0.conv1`, or `layer1.0.add` for a call in `layer1.0`."""
    stack = node.meta.get("nn_module_stack")
    if not stack:
        return node.name
    path, kind = list(stack.values())[-1]
    path = _DYNAMO_ROOT.sub("", path)
    kind = kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"
    if kind.startswith("torch.nn.modules.") and path:
        return path
    function = _short_name(node.target).partition(".")[0].strip("_")
    return f"{path}.{function}" if path else function


def _short_name(target: Any) -> str:
    return str(target).removeprefix("aten.")


def _live(program: fx.Graph) -> set[fx.Node]:
    """The inputs and what the outputs need: nobody asks whether Waterline could compute the rest."""
    live: set[fx.Node] = set()
    for node in reversed(program.nodes):
        if node.op in ("placeholder", "output") or not live.isdisjoint(node.users):
            live.add(node)
    return live


def _without_dead_nodes(graph: Graph) -> Graph:
    """Without what no output needs: unused halves of a split, statistics that nobody reads."""
    needed = set(graph.outputs)
    kept = []
    for node in reversed(graph.nodes):
        if not needed.isdisjoint(node.outputs):
            kept.append(node)
            needed.update(node.inputs)
    return graph.with_nodes(reversed(kept))
