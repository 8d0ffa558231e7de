"""`CompiledNetwork`: what `compile` returns."""

from __future__ import annotations

import functools
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from waterline.analysis import Analysis, of_report
from waterline.api import environment
from waterline.api.engine import Engine, Shapes
from waterline.api.explanation import explain
from waterline.api.options import Options
from waterline.errors import Error, InvalidArgument
from waterline.graph import Graph
from waterline.graph.images import takes_images_alone
from waterline.planner import Measurements, Plan, Target, plan
from waterline.runtime.locks import RenewedLock
from waterline.runtime.profile import Report

_log = logging.getLogger("waterline.dispatch")
_profile_log = logging.getLogger("waterline.profile")


@dataclass
class Source:
    """Where a network comes from.

    Attributes:
        graph: simplified, for one set of input shapes.
        reload: the simplified graph for other shapes, read from the model again; None where the graph is all there is.
        is_traced: the graph holds for its own sizes only, but for the batch: PyTorch's traces have sizes written in.
        arrange: the arguments of a call -> the tensors in the order of the graph's inputs.
        restore: the output tensors -> what the caller gets.
    """

    graph: Graph
    reload: Callable[[dict[str, tuple[int, ...]]], Graph] | None = None
    is_traced: bool = False
    arrange: Callable[..., Sequence[Any]] | None = None
    restore: Callable[[Sequence[Any]], Any] | None = None


class CompiledNetwork:
    """A network ready to run. Calls are safe from several threads at once; results do not depend on `num_threads`."""

    def __init__(
        self,
        source: Source,
        engine: Engine,
        options: Options,
        measured: Measurements | None = None,
    ) -> None:
        source.graph.dtype = engine.dtype
        self._source = source
        self._engine = engine
        self._options = options
        self._measured = measured  # read once: another batch gets the same choices
        self._lock = RenewedLock()
        self._weights = engine.weights(source.graph, releases=source.reload is not None)
        self._names = tuple(source.graph.inputs)
        self._programs: OrderedDict[Shapes, Any] = OrderedDict()
        self._is_profiled = "profile" in environment.verbose()
        self._own_shapes: Shapes = tuple(source.graph.shapes[name] for name in self._names)
        self._first = self._program(self._own_shapes)

    # ---- running ------------------------------------------------------------------------------------------------
    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """Run the network.

        Args:
            inputs: tensors in the model's order and layout (NCHW): NumPy arrays, torch tensors or anything with
                `__dlpack__`, of float32. ONNX inputs may be passed by name. On a CPU another batch size compiles
                nothing. On a GPU: torch tensors there, of any floating point type and memory format, or NumPy arrays,
                which are copied there and back.

        Returns:
            What the model returns, in the caller's kind of array: a tensor, or a tuple of them; for PyTorch modules
            the module's own structure.

        Raises:
            InvalidArgument: wrong number of inputs, dtype, rank or shape.
        """
        values = self._arranged(inputs, named)
        results = self.run_arrays(self._arrays(values))
        example = values[0] if values else None
        outputs = [self._engine.result(array, example) for array in results]
        if self._source.restore is not None:
            return self._source.restore(outputs)
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def run_arrays(self, arrays: Sequence[Any]) -> list[Any]:
        """The engine's arrays in (on a CPU float32, C-contiguous), the outputs in the model's order."""
        program = self._program(tuple([tuple(array.shape) for array in arrays]))
        if self._is_profiled:
            start = time.perf_counter_ns()
            results = self._engine.run(program, arrays)
            _profile_log.info("%s %.1f us", program.plan.network, (time.perf_counter_ns() - start) / 1e3)
            return results
        return self._engine.run(program, arrays)

    def _arrays(self, values: Sequence[Any]) -> list[Any]:
        return [self._engine.array(value, name) for value, name in zip(values, self._names, strict=True)]

    def _arranged(self, inputs: tuple[Any, ...], named: dict[str, Any]) -> Sequence[Any]:
        if self._source.arrange is not None:
            return self._source.arrange(*inputs, **named)
        if not named and len(inputs) == len(self._names):
            return inputs
        values = dict(zip(self._names, inputs, strict=False))
        unknown = [name for name in named if name not in self._names]
        if unknown or len(inputs) > len(self._names) or set(values) & set(named):
            given = f"{len(inputs) + len(named)} inputs" + (f" ({unknown[0]!r} among them)" if unknown else "")
            raise InvalidArgument(
                f"got {given}, the network has {len(self._names)}",
                f"its inputs are {', '.join(self._names)}",
            )
        values |= named
        missing = [name for name in self._names if name not in values]
        if missing:
            raise InvalidArgument(f"input {missing[0]!r} is missing", f"its inputs are {', '.join(self._names)}")
        return [values[name] for name in self._names]

    # ---- programs -----------------------------------------------------------------------------------------------
    def _program(self, given: Shapes) -> Any:
        shapes = self._engine.shapes(given, self._own_shapes, lambda: self._takes_images_alone)
        with self._lock:
            program = self._programs.get(shapes)
            if program is None:
                program = self._make_program(shapes, given)
                self._programs[shapes] = program
                while len(self._programs) > self._engine.programs_kept:
                    self._programs.popitem(last=False)
            else:
                self._programs.move_to_end(shapes)
            return program

    @functools.cached_property
    def _takes_images_alone(self) -> bool:
        return takes_images_alone(self._source.graph)

    def _make_program(self, shapes: Shapes, given: Shapes) -> Any:
        """A program for inputs of `shapes`, for a caller who gave some of the shapes `given`."""
        graph = self._graph_for(shapes, given)
        weights = self._weights
        if graph.constants is not self._source.graph.constants:
            weights = self._engine.weights(graph, releases=False)
        made = plan(graph, self._engine.target, self._options.plan, self._measured)
        if not weights.serves(made.steps):
            graph = self._read_again(dict(zip(self._names, shapes, strict=True)))
            weights = self._engine.weights(graph, releases=False)
        for step in made.steps:
            _log.info("%s: %s %s", step.name, step.kind, step.spec.id if step.spec else "")
        return self._engine.program(made, weights)

    def _graph_for(self, shapes: Shapes, given: Shapes) -> Graph:
        graph = self._source.graph
        wanted = dict(zip(self._names, shapes, strict=True))
        known = self._own_shapes
        if shapes == known:
            return graph
        for name, shape, old in zip(self._names, given, known, strict=True):
            if len(shape) != len(old):
                raise InvalidArgument(
                    f"input {name!r} has shape {shape}, the network takes {_pattern(old)}", "check the number of axes"
                )
        is_batch = all(shape[1:] == old[1:] for shape, old in zip(shapes, known, strict=True))
        if self._source.is_traced and not is_batch:
            raise InvalidArgument(
                f"the network was traced for inputs of shape {_patterns(known)}, got {_patterns(given, batch=False)}",
                "compile it again with example_inputs of this size",
            )
        reload = self._source.reload
        # Another batch follows from the graph itself; other sizes are read from the model again, where there is one.
        ways = (graph.with_shapes,) if reload is None else (graph.with_shapes, reload) if is_batch else (reload,)
        refusals: list[Error] = []
        for derive in ways:
            try:
                return self._typed(derive(wanted))
            except Error as error:
                refusals.append(error)
        inputs = ", ".join(f"{name}: {shape}" for name, shape in zip(self._names, given, strict=True))
        raise InvalidArgument(
            f"the network does not take inputs of shape {inputs}: {refusals[-1].message}",
            f"it was compiled for {_patterns(known)}",
        ) from refusals[-1]

    # ---- what it is ---------------------------------------------------------------------------------------------
    @property
    def plan(self) -> Plan:
        """The plan of the input shapes that the network was compiled for."""
        made: Plan = self._first.plan
        return made

    def plan_for(self, *inputs: Any, **named: Any) -> Plan:
        """The plan that inputs of these shapes run by: blocks of layers are chosen for one image or for many."""
        values = self._arranged(inputs, named)
        found: Plan = self._program(tuple(tuple(array.shape) for array in self._arrays(values))).plan
        return found

    @property
    def graph(self) -> Graph:
        """The simplified network. Read from the model again where the weights have been packed and let go."""
        graph = self._source.graph
        return self._read_again(graph.shapes) if self._weights.has_released else graph

    def _read_again(self, shapes: Mapping[str, tuple[int, ...]]) -> Graph:
        assert self._source.reload is not None
        return self._typed(self._source.reload({name: tuple(shapes[name]) for name in self._names}))

    def _typed(self, graph: Graph) -> Graph:
        """The graph with what the engine computes in."""
        graph.dtype = self._engine.dtype
        return graph

    @property
    def engine(self) -> Engine:
        """The device that it runs on."""
        return self._engine

    @property
    def target(self) -> Target:
        """What the plan was made for."""
        return self._engine.target

    @property
    def num_threads(self) -> int:
        return self._engine.threads

    @property
    def input_names(self) -> tuple[str, ...]:
        return self._names

    def profile(self, *inputs: Any, seconds: float = 1.0, **named: Any) -> Report:
        """Run for about `seconds` and report every layer's time, efficiency and bound."""
        return self._profiled(inputs, named, seconds)[1]

    def _profiled(self, inputs: tuple[Any, ...], named: dict[str, Any], seconds: float) -> tuple[Any, Report]:
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds > 0:
            raise InvalidArgument(f"profile for {seconds!r} seconds", "pass a positive number")
        values = self._arranged(inputs, named)
        arrays = self._arrays(values)
        program = self._program(tuple(tuple(array.shape) for array in arrays))
        return program, self._engine.measure(program, arrays, seconds)

    def analyse(self, *inputs: Any, seconds: float = 1.0, **named: Any) -> Analysis:
        """How far every layer and block is from its limit, and why.

        With inputs they are run as by `profile`, and the times are measured; without any, times are predicted from the
        plan of the shapes that the network was compiled for, and nothing runs.
        """
        if not inputs and not named:
            return self._engine.analyse(self.plan)
        program, report = self._profiled(inputs, named, seconds)
        return of_report(program.plan, self._engine.rates, report)

    def explain(self) -> str:
        """Every layer, its algorithm, and each other one with its cost or the reason it was refused."""
        return explain(self.plan)

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name} {shape}" for name, shape in self.plan.inputs)
        size = f"{len(self.plan.steps)} steps, {self._engine.threads} threads"
        return f"<waterline network {self.plan.network!r}: {shapes}; {size}>"


def _patterns(shapes: Shapes, *, batch: bool = True) -> str:
    return ", ".join(_pattern(shape) if batch else str(shape) for shape in shapes)


def _pattern(shape: tuple[int, ...]) -> str:
    """A shape whose first axis may change."""
    return f"({', '.join(['N', *map(str, shape[1:])])})" if shape else "()"
