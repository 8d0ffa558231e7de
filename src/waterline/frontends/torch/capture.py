"""From what a user hands over to an exported program that can be read: traced, static, functional, in inference."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import OutputKind
from torch.utils import _pytree as pytree

from waterline.errors import Error, InvalidArgument, InvalidModel
from waterline.frontends.torch.importer import label_of

_EVAL_HINT = "call model.eval() before compiling: Waterline computes inference"
# Operators that may return their input itself, although their schema does not say so.
_MAY_RETURN_ITS_INPUT = {"dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "type_as"}


def as_arguments(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and named arguments of a call: one tensor, a sequence of positional ones, or a dict of named ones.

    Arrays become tensors. Raises InvalidArgument for what is not float32 on the CPU.
    """
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    if isinstance(example_inputs, Mapping):
        args, kwargs = (), dict(example_inputs)
    elif isinstance(example_inputs, (tuple, list)):
        args, kwargs = tuple(example_inputs), {}
    else:
        args, kwargs = (example_inputs,), {}

    def tensor(x: Any) -> Any:
        if hasattr(x, "__array__") and not isinstance(x, torch.Tensor):
            x = torch.from_numpy(x.__array__())
        return x

    args, kwargs = pytree.tree_map(tensor, (args, kwargs))
    tensors = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    if not tensors:
        raise InvalidArgument(
            f"example_inputs is {type(example_inputs).__name__} without a tensor",
            "pass a tensor, a tuple of positional arguments or a dict of named ones",
        )
    for i, x in enumerate(tensors):
        check_tensor(x, f"example input {i}")
    return args, kwargs


def check_tensor(x: torch.Tensor, what: str) -> None:
    """Raises InvalidArgument where `x` is not a dense float32 tensor on the CPU."""
    if x.dtype != torch.float32:
        raise InvalidArgument(
            f"{what} is {str(x.dtype).removeprefix('torch.')}; Waterline reads float32", "use .float()"
        )
    if x.layout != torch.strided:
        raise InvalidArgument(f"{what} is {x.layout}; Waterline reads dense tensors", "use .to_dense()")
    if x.device.type != "cpu":
        raise InvalidArgument(f"{what} is on {x.device}; the CPU is served", "use .cpu()")


def trace(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ExportedProgram:
    """torch.export of a module for the shapes of its arguments.

    Raises:
        InvalidArgument: parameters that are not float32 on the CPU; arguments that the module does not take.
        InvalidModel: torch.export cannot follow the module.
    """
    for name, x in [*module.named_parameters(), *module.named_buffers()]:
        if x.is_floating_point() or x.is_complex() or x.device.type != "cpu":
            check_tensor(x, f"{name!r} of the module")
    with _without_fused_attention(), torch.no_grad():
        try:
            return torch.export.export(module, args, kwargs, strict=False)
        except Error:
            raise
        except Exception as error:  # whatever the module's code or the tracer raises
            first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
            raise InvalidModel(
                f"torch.export cannot follow {type(module).__name__}: {type(error).__name__}: {first}",
                "check that model(*example_inputs) runs; code that depends on values cannot be exported",
            ) from error


@contextlib.contextmanager
def _without_fused_attention() -> Iterator[None]:
    """Transformer layers as their parts, not as the one operator of PyTorch's inference shortcut."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def specialize(program: ExportedProgram, example_inputs: Any) -> ExportedProgram:
    """The program for fixed shapes: those of `example_inputs`, or the ones that it was exported with."""
    if example_inputs is not None:
        args, kwargs = as_arguments(example_inputs)
    elif program.example_inputs is not None:
        args, kwargs = program.example_inputs
    else:
        args, kwargs = (), {}
    if not _is_dynamic(program) and (example_inputs is None or _shapes_of(program) == _shapes((args, kwargs))):
        return program
    if not args and not kwargs:
        raise InvalidArgument("the exported program has dynamic shapes and no example inputs", "pass example_inputs")
    return trace(program.module(), args, kwargs)


def _is_dynamic(program: ExportedProgram) -> bool:
    return any(
        isinstance(x, torch.SymInt) or (isinstance(x, torch.Tensor) and not all(isinstance(d, int) for d in x.shape))
        for node in program.graph.nodes
        for x in pytree.tree_leaves(node.meta.get("val"))
    )


def _shapes_of(program: ExportedProgram) -> list[tuple[int, ...]]:
    names = set(program.graph_signature.user_inputs)
    nodes = [node for node in program.graph.nodes if node.op == "placeholder" and node.name in names]
    return _shapes([node.meta.get("val") for node in nodes])


def _shapes(tree: Any) -> list[tuple[int, ...]]:
    return [tuple(x.shape) for x in pytree.tree_leaves(tree) if isinstance(x, torch.Tensor)]


# ---- inference ------------------------------------------------------------------------------------------------------
def check_inference(program: ExportedProgram) -> None:
    """Raises InvalidArgument where an operator of the program was traced in training mode."""
    for node in program.graph.nodes:
        if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
            continue
        name, arguments = node.target._schema.name, _named(node)
        is_dropout = (
            "dropout" in name and (arguments.get("train") or arguments.get("training")) and arguments.get("p") != 0
        )
        is_batch_norm = "batch_norm" in name and arguments.get("training") and arguments.get("running_mean") is not None
        if is_dropout or is_batch_norm:
            raise InvalidArgument(f"the module is in training mode: {name} at {label_of(node)!r}", _EVAL_HINT)


def _named(node: fx.Node) -> dict[str, Any]:
    arguments = node.target._schema.arguments
    named = {argument.name: argument.default_value for argument in arguments}
    named.update({argument.name: x for argument, x in zip(arguments, node.args, strict=False)})
    return {**named, **node.kwargs}


# ---- mutation -------------------------------------------------------------------------------------------------------
def functionalize(program: ExportedProgram, always: bool = False) -> ExportedProgram:
    """The program without effects that reading node by node would miss.

    In-place operators stay where nothing reads the old tensor, or another view of it, afterwards; only the others are
    worth the time that PyTorch takes to rewrite the program.

    Raises:
        InvalidModel: the module writes to its own buffers or parameters.
    """
    if always or _has_visible_mutation(program):
        program = program.run_decompositions({})
    for output in program.graph_signature.output_specs:
        if output.kind in (OutputKind.BUFFER_MUTATION, OutputKind.PARAMETER_MUTATION):
            raise InvalidModel(
                f"the module changes its own {output.target!r} in every call; Waterline keeps no state between calls",
                _EVAL_HINT,
            )
    return program


def mutates_inputs(program: ExportedProgram) -> bool:
    """Whether running the program writes to a tensor that the caller passed in."""
    names = set(program.graph_signature.user_inputs)
    if any(output.kind == OutputKind.USER_INPUT_MUTATION for output in program.graph_signature.output_specs):
        return True
    return any(member.name in names for _, members in _mutations(program.graph) for member in members)


def _has_visible_mutation(program: ExportedProgram) -> bool:
    nodes = list(program.graph.nodes)
    position = {node: i for i, node in enumerate(nodes)}
    own = {x.name for x in nodes if x.op == "placeholder"} - set(program.graph_signature.user_inputs)
    for writer, members in _mutations(program.graph):
        read_again = any(position[user] > position[writer] for member in members for user in member.users)
        secret = [member for member in members if _operator(member) in _MAY_RETURN_ITS_INPUT]
        if read_again and secret:
            raise InvalidModel(
                f"{label_of(writer)!r} writes in place to what {_operator(secret[0])} returned, "
                "and the tensor is read again",
                "make the operation not in-place",
            )
        if read_again or any(member.name in own for member in members):
            return True
    return False


def _mutations(graph: fx.Graph) -> Iterator[tuple[fx.Node, list[fx.Node]]]:
    """Every call that writes in place, with the nodes before it that share the memory which it writes."""
    group: dict[fx.Node, list[fx.Node]] = {}
    for node in graph.nodes:
        shared: list[fx.Node] = []
        if node.op == "call_function":
            read_from, written = _aliased(node)
            for source in written:
                yield node, list(group[source])
            for source in [*read_from, *written]:
                if group[source] is not shared:
                    shared += [member for member in group[source] if member not in shared]
        shared.append(node)
        for member in shared:
            group[member] = shared


def _operator(node: fx.Node) -> str:
    """The operator's name without namespace and overload; empty for other nodes."""
    is_operator = isinstance(node.target, torch._ops.OpOverload)
    return node.target._schema.name.partition("::")[2] if is_operator else ""


def _aliased(node: fx.Node) -> tuple[list[fx.Node], list[fx.Node]]:
    """The arguments whose memory the result may share, and those that are written."""
    if not isinstance(node.target, torch._ops.OpOverload):  # getitem of a list of views, higher-order operators
        return [x for x in node.all_input_nodes], []
    read_from, written = [], []
    schema = node.target._schema
    for argument, value in zip(schema.arguments, [_named(node)[a.name] for a in schema.arguments], strict=True):
        nodes = [x for x in pytree.tree_leaves(value) if isinstance(x, fx.Node)]
        if argument.alias_info is not None and argument.alias_info.is_write:
            written += nodes
        elif argument.alias_info is not None or _operator(node) in _MAY_RETURN_ITS_INPUT:
            read_from += nodes
    return read_from, written
