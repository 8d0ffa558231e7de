"""The backend of torch.compile: `torch.compile(module, backend="waterline")`.

TorchDynamo hands over one subgraph at a time, with parameters among the arguments. A subgraph is compiled when it is
called, once for each set of input shapes; what Waterline does not compute runs in PyTorch, part by part where that is
worthwhile, and the logger `waterline.dynamo` tells why. Parameters are packed into the engine; when one is replaced or
written to (an optimizer's step, load_state_dict), the next call compiles again.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx
from torch.fx.traceback import preserve_node_meta

from waterline import api
from waterline.errors import Error, InvalidArgument, Refused, UnsupportedOperator
from waterline.frontends.torch import capture, importer, partition
from waterline.frontends.torch.load import read_program
from waterline.graph import Graph

_log = logging.getLogger("waterline.dynamo")
_CALL_OPTIONS = ("device", "dtype", "num_threads")  # the others go into `options` of waterline.compile
_SHAPES_KEPT = 8  # engines of one subgraph; the one not used for longest makes room

Runner = Callable[..., Sequence[Any]]


def backend(
    gm: fx.GraphModule, example_inputs: Sequence[Any], *, options: dict[str, Any] | None = None, mode: str | None = None
) -> Callable[..., Sequence[Any]]:
    """Compile one subgraph for inference on the CPU.

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
        placeholders = [node for node in gm.graph.nodes if node.op == "placeholder"]
        self._frozen = {i: str(node.target) for i, node in enumerate(placeholders) if _is_parameter(node)}
        self._stamp: list[tuple[torch.Tensor, int, int]] = []
        self._runners: OrderedDict[tuple[Any, ...], Runner | None] = OrderedDict()
        self._told: set[str] = set()
        self._lock = threading.Lock()

    def __call__(self, *args: Any) -> Sequence[Any]:
        try:
            check_call(args)
            if any(args[i].is_inference() for i in self._frozen):
                raise _Unfit("its parameters were made under inference_mode: PyTorch does not tell when they change")
            runner = self._runner(args)
        except _Unfit as reason:
            self._tell(str(reason))
            runner = None
        if runner is None:
            return self._gm(*args)
        return runner(*[x for i, x in enumerate(args) if isinstance(x, torch.Tensor) and i not in self._frozen])

    def _tell(self, reason: str) -> None:
        """Log a reason, once for each subgraph."""
        if reason not in self._told:
            self._told.add(reason)
            _log.warning("a subgraph of %d nodes runs in PyTorch: %s", len(self._gm.graph.nodes), reason)

    def _runner(self, args: Sequence[Any]) -> Runner | None:
        key = tuple(tuple(x.shape) if isinstance(x, torch.Tensor) else x for x in args)
        with self._lock:
            if self._is_stale(args):
                self._runners.clear()
                self._stamp = [(args[i], args[i].data_ptr(), args[i]._version) for i in self._frozen]
            if key not in self._runners:
                self._runners[key] = self._build(args)
                if len(self._runners) > _SHAPES_KEPT:
                    self._runners.popitem(last=False)
            self._runners.move_to_end(key)
            return self._runners[key]

    def _is_stale(self, args: Sequence[Any]) -> bool:
        """Whether a parameter was replaced or written to since the engines packed it."""
        if len(self._stamp) != len(self._frozen):
            return True
        for i, (tensor, address, version) in zip(self._frozen, self._stamp, strict=True):
            x = args[i]
            if x is not tensor or x._version != version or x.data_ptr() != address:
                return True
        return False

    # ---- building -----------------------------------------------------------------------------------------------
    def _build(self, args: Sequence[Any]) -> Runner | None:
        """The way to run these shapes, or None where the subgraph is left to PyTorch."""
        try:
            return self._compiled(args)
        except _Unfit as reason:
            self._tell(str(reason))
        except (UnsupportedOperator, Refused) as error:
            self._tell(error.message)
        return None

    def _compiled(self, args: Sequence[Any]) -> Runner:
        tensors = tuple(x for i, x in enumerate(args) if isinstance(x, torch.Tensor) and i not in self._frozen)
        if not tensors:
            raise _Unfit("it has no tensor for input")
        try:
            program = capture.trace(_Bound(self._gm, args, self._frozen), tensors, {})
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
            runner = partition.partition(program, reading.refused, self._engine)
            if runner is None:
                raise _Unfit(refusal.message)
            self._tell(f"in parts, because {refusal.message}")
            return runner
        if not partition.is_worthwhile(reading.graph):
            raise _Unfit("it has no layer that is worth a call")
        engine = self._engine(reading.graph)
        return lambda *inputs: reading.arrange(engine(*inputs))

    def _engine(self, graph: Graph) -> Runner:
        """A graph's engine as a function from its input tensors to the list of its outputs."""
        compiled = api.compile(graph, **self._keywords)

        def run(*inputs: torch.Tensor) -> list[torch.Tensor]:
            result = compiled(*(x.detach() for x in inputs))
            return [result] if isinstance(result, torch.Tensor) else list(result)

        return run


class _Bound(torch.nn.Module):
    """A subgraph whose parameters, and the numbers among its arguments, are fixed."""

    def __init__(self, gm: fx.GraphModule, args: Sequence[Any], frozen: dict[int, str]) -> None:
        super().__init__()
        self._gm = gm
        self._numbers = {i: x for i, x in enumerate(args) if not isinstance(x, torch.Tensor)}
        self._names = {i: name.replace(".", "_") for i, name in frozen.items()}
        self._count = len(args)
        for i, name in self._names.items():
            self.register_buffer(name, args[i].detach())

    def forward(self, *tensors: torch.Tensor) -> Any:
        given = iter(tensors)
        args = []
        for i in range(self._count):
            if i in self._numbers:
                args.append(self._numbers[i])
            else:
                args.append(getattr(self, self._names[i]) if i in self._names else next(given))
        with preserve_node_meta():  # the tracer takes over where in the module each call comes from
            return tuple(fx.Interpreter(self._gm).run(*args))


def check_call(args: Sequence[Any]) -> None:
    """Raises _Unfit where this call needs what Waterline does not do: gradients, other devices, other dtypes."""
    needs_gradients = torch.is_grad_enabled()
    for x in args:
        if not isinstance(x, torch.Tensor):
            continue
        if needs_gradients and x.requires_grad:
            raise _Unfit("gradients are needed; call it under torch.inference_mode() or torch.no_grad()")
        if x.device.type != "cpu":
            raise _Unfit(f"a tensor is on {x.device}")
        if x.dtype != torch.float32 and (x.is_floating_point() or x.is_complex()):
            raise _Unfit(f"a tensor is {str(x.dtype).removeprefix('torch.')}")


def _is_parameter(node: fx.Node) -> bool:
    """Whether TorchDynamo passes a parameter or buffer of the module here, the same tensor in every call."""
    return "_dynamo_static_input_type" in (node.meta.get("tensor_dict") or {})
