"""The backend of torch.compile: `torch.compile(module, backend="waterline")`.

TorchDynamo hands over one subgraph at a time, with parameters among the arguments. A subgraph is compiled when it is
called, once for each set of input shapes; what Waterline does not compute runs in PyTorch, part by part where that is
worthwhile, and the logger `waterline.dynamo` tells why. Parameters are packed into the engine; when one is replaced or
written to (an optimizer's step, load_state_dict), the next call compiles again.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import fx
from torch.fx.traceback import preserve_node_meta

from waterline import api
from waterline.errors import Error, InvalidArgument, InvalidModel, Refused, UnsupportedOperator
from waterline.frontends.torch import capture, importer, partition
from waterline.frontends.torch.load import read_program
from waterline.graph import Graph
from waterline.runtime.locks import RenewedLock

_log = logging.getLogger("waterline.dynamo")
_CALL_OPTIONS = ("device", "dtype", "num_threads")  # the others go into `options` of waterline.compile
_SHAPES_KEPT = 8  # engines of one subgraph; the one not used for longest makes room

Runner = Callable[..., Sequence[Any]]


def backend(
    gm: fx.GraphModule, example_inputs: Sequence[Any], *, options: dict[str, Any] | None = None, mode: str | None = None
) -> Callable[..., Sequence[Any]]:
    """Compile one subgraph for inference, on the CPU or with `device="cuda"` on a GPU.

    Args:
        options: those of `waterline.compile` together with its `device`, `dtype` and `num_threads`:
            `torch.compile(module, backend="waterline", options={"num_threads": 2})`.
        mode: the modes of torch.compile are other backends'; only None is accepted.

    Raises:
        InvalidArgument: `mode`, or an option that waterline.compile refuses (at the first call).
    """
    if mode is not None:
        raise InvalidArgument(f"mode {mode!r} is not one of Waterline's", "use options, as for waterline.compile")
    options = dict(options or {})
    keywords = {name: options.pop(name) for name in _CALL_OPTIONS if name in options}
    return _Subgraph(gm, {**keywords, "options": options or None})


class _Unfit(Exception):  # noqa: N818 - a decision, not an error
    """A subgraph, or one call of it, is left to PyTorch. The message is the reason."""


class _Subgraph:
    """One subgraph and its engines, by the shapes of a call's arguments."""

    def __init__(self, gm: fx.GraphModule, keywords: dict[str, Any]) -> None:
        self._gm = gm
        self._keywords = keywords
        self._is_on_gpu = not str(keywords.get("device", "cpu")).startswith("cpu")
        placeholders = [node for node in gm.graph.nodes if node.op == "placeholder"]
        self._frozen = {i: str(node.target) for i, node in enumerate(placeholders) if _is_parameter(node)}
        self._boxed = {i for i, node in enumerate(placeholders) if _is_boxed_number(node)}
        self._given = [i for i in range(len(placeholders)) if i not in self._frozen]
        self._stamp: list[tuple[torch.Tensor, int, int]] = []
        self._runners: OrderedDict[tuple[Any, ...], Runner | None] = OrderedDict()
        self._is_sized = any(_is_size(node) for node in gm.graph.nodes)  # an engine has these as plain numbers
        self._told: set[str] = set()
        self._lock = RenewedLock()

    def __call__(self, *args: Any) -> Sequence[Any]:
        given = [args[i].item() if i in self._boxed else args[i] for i in self._given]
        try:
            if torch.is_grad_enabled() and any(isinstance(x, torch.Tensor) and x.requires_grad for x in args):
                raise _Unfit("gradients are needed; call it under torch.inference_mode() or torch.no_grad()")
            self._check_tensors(given)
            runner = self._runner(args, given)
        except _Unfit as reason:
            self._tell(str(reason))
            runner = None
        if runner is None:
            return self._gm(*args)
        try:
            return runner(*[x for x in given if isinstance(x, torch.Tensor)])
        except (InvalidArgument, InvalidModel):
            if self._is_sized:
                raise
            with self._lock:  # this network's engines do not follow another batch: from now on one for each
                self._is_sized = True
                self._runners.clear()
            return self(*args)

    def _tell(self, reason: str) -> None:
        """Log a reason, once for each subgraph."""
        if reason not in self._told:
            self._told.add(reason)
            _log.warning("a subgraph of %d nodes runs in PyTorch: %s", len(self._gm.graph.nodes), reason)

    def _runner(self, args: Sequence[Any], given: Sequence[Any]) -> Runner | None:
        with self._lock:
            if self._is_stale(args):
                self._runners.clear()
                self._stamp = [(args[i], args[i].data_ptr(), args[i]._version) for i in self._frozen]
            key = self._key(given)
            if key not in self._runners:
                runner = self._build(args, given)
                key = self._key(given)  # building may have found that the engine is for these shapes only
                self._runners[key] = runner
                if len(self._runners) > _SHAPES_KEPT:
                    self._runners.popitem(last=False)
            self._runners.move_to_end(key)
            return self._runners[key]

    def _key(self, given: Sequence[Any]) -> tuple[Any, ...]:
        """What an engine is good for: exactly these shapes and sizes, or any batch of these images."""
        if self._is_sized:
            return tuple(tuple(x.shape) if isinstance(x, torch.Tensor) else x for x in given)
        return tuple(tuple(x.shape[1:]) if isinstance(x, torch.Tensor) else x for x in given if not isinstance(x, int))

    def _is_stale(self, args: Sequence[Any]) -> bool:
        """Whether a parameter was replaced or written to since the engines packed it.

        Raises:
            _Unfit: PyTorch does not tell, because the parameter was made under inference_mode.
        """
        if len(self._stamp) != len(self._frozen):
            if any(args[i].is_inference() for i in self._frozen):
                raise _Unfit(
                    "its parameters were made under inference_mode, where PyTorch does not count their changes"
                )
            return True
        for i, (tensor, address, version) in zip(self._frozen, self._stamp, strict=True):
            x = args[i]
            if x is not tensor or x._version != version or x.data_ptr() != address:
                return True
        return False

    # ---- building -----------------------------------------------------------------------------------------------
    def _build(self, args: Sequence[Any], given: Sequence[Any]) -> Runner | None:
        """The way to run these shapes, or None where the subgraph is left to PyTorch."""
        try:
            return self._compiled(args, given)
        except _Unfit as reason:
            self._tell(str(reason))
        except (UnsupportedOperator, Refused) as error:
            self._tell(error.message)
        return None

    def _compiled(self, args: Sequence[Any], given: Sequence[Any]) -> Runner:
        tensors = tuple(x for x in given if isinstance(x, torch.Tensor))
        if not tensors:
            raise _Unfit("it has no tensor for input")
        try:
            numbers = {i: x for i, x in zip(self._given, given, strict=True) if not isinstance(x, torch.Tensor)}
            bound = _Bound(self._gm, args, self._frozen, numbers, self._readable)
            program = capture.trace(bound, tuple(self._readable(x) for x in tensors), {})
            if capture.mutates_inputs(program):
                raise _Unfit("it writes to its inputs")
            program, reading = read_program(program, "subgraph")
            if reading.refused:
                program = capture.functionalize(program, always=True)
                program, reading = read_program(program, "subgraph")
        except Error as error:
            raise _Unfit(error.message) from error
        if reading.graph is None:
            refusal = importer.refusal(reading.refused)
            self._is_sized = True  # the operators between the parts are those of the traced shapes
            runner = partition.partition(program, reading.refused, partial(self._engine, tensors[0].dtype))
            if runner is None:
                raise _Unfit(refusal.message)
            self._tell(f"in parts, because {refusal.message}")
            return runner
        if not partition.is_worthwhile(reading.graph):
            raise _Unfit("it has no layer that is worth a call")
        engine = self._engine(tensors[0].dtype, reading.graph)
        return lambda *inputs: reading.arrange(engine(*inputs))

    def _readable(self, x: torch.Tensor) -> torch.Tensor:
        """What the front end reads: float32 on the host."""
        return x.detach().to("cpu", torch.float32) if self._is_on_gpu and x.is_floating_point() else x.detach()

    def _engine(self, dtype: torch.dtype, graph: Graph) -> Runner:
        """A graph's engine as a function from its input tensors to the list of its outputs, all of type `dtype`.

        On a GPU it computes in that, unless another type was asked for.
        """
        keywords = {"dtype": dtype, **self._keywords} if self._is_on_gpu else self._keywords
        compiled = api.compile(graph, **keywords)

        def run(*inputs: torch.Tensor) -> list[torch.Tensor]:
            result = compiled(*(x.detach() for x in inputs))
            return [each.to(dtype) for each in ([result] if isinstance(result, torch.Tensor) else result)]

        return run

    def _check_tensors(self, given: Sequence[Any]) -> None:
        """Raises _Unfit where a call brings what Waterline does not serve: other devices, other dtypes."""
        wanted, dtypes = "cpu", {torch.float32}
        if self._is_on_gpu:
            from waterline.codegen.gpu.kernel import is_interpreted

            wanted, dtypes = ("cpu" if is_interpreted() else "cuda"), {torch.float32, torch.float16, torch.bfloat16}
        tensors = [x for x in given if isinstance(x, torch.Tensor)]
        for x in tensors:
            if x.device.type != wanted:
                raise _Unfit(f"a tensor is on {x.device}")
            if x.dtype not in dtypes or x.dtype != tensors[0].dtype:
                raise _Unfit(f"a tensor is {str(x.dtype).removeprefix('torch.')}")


class _Bound(torch.nn.Module):
    """A subgraph as a function of its tensors: its parameters, and the numbers among its arguments, are fixed."""

    def __init__(
        self,
        gm: fx.GraphModule,
        args: Sequence[Any],
        frozen: dict[int, str],
        numbers: dict[int, Any],
        readable: Callable[[torch.Tensor], torch.Tensor],
    ) -> None:
        super().__init__()
        self._gm = gm
        self._numbers = numbers
        self._names = {i: name.replace(".", "_") for i, name in frozen.items()}
        self._count = len(args)
        for i, name in self._names.items():
            self.register_buffer(name, readable(args[i]))

    def forward(self, *tensors: torch.Tensor) -> Any:
        given = iter(tensors)
        args = []
        for i in range(self._count):
            if i in self._numbers:
                args.append(self._numbers[i])
            else:
                args.append(getattr(self, self._names[i]) if i in self._names else next(given))
        with preserve_node_meta():  # the tracer takes over where in the module each call comes from
            return tuple(_Interpreter(self._gm).run(*args))


class _Interpreter(fx.Interpreter):
    """Runs a subgraph with numbers in the place of the tensors that TorchDynamo puts them into."""

    def call_method(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if target == "item" and not isinstance(args[0], torch.Tensor):
            return args[0]
        return super().call_method(target, args, kwargs)


def _is_parameter(node: fx.Node) -> bool:
    """Whether TorchDynamo passes a parameter or buffer of the module here, the same tensor in every call."""
    return "_dynamo_static_input_type" in (node.meta.get("tensor_dict") or {})


def _is_boxed_number(node: fx.Node) -> bool:
    """Whether TorchDynamo passes a Python number as a tensor of rank 0 here, as it does where shapes are dynamic."""
    calls = [user.op == "call_method" and user.target == "item" for user in node.users]
    return bool(calls) and all(calls)


def _is_size(node: fx.Node) -> bool:
    """Whether a node is a number that depends on the sizes of tensors, and is used."""
    is_symbolic = isinstance(node.meta.get("example_value"), torch.SymInt | torch.SymFloat | torch.SymBool)
    is_unboxed = node.op == "call_method" and node.target == "item" and _is_boxed_number(node.all_input_nodes[0])
    return is_symbolic and not is_unboxed and (node.op != "placeholder" or bool(node.users))
