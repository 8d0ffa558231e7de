"""`plan`: from a graph to a `Plan`. Runs nothing; the machine and the options are parameters."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from waterline.algorithms.block_fusion import BLOCK_FUSION
from waterline.errors import InvalidArgument, Refused
from waterline.graph import Graph
from waterline.machine import Machine
from waterline.planner.blocks import Fusion
from waterline.planner.choice import NOT_ALLOWED, Choice, choose
from waterline.planner.limit import Rooms, alive_bytes, culprit
from waterline.planner.lower import Layer, Lowered, lower
from waterline.planner.measurements import Measurements
from waterline.planner.memory import Lifetime, lifetimes, place
from waterline.planner.plan import Buffer, Candidate, Plan, Step
from waterline.planner.target import Target, target_of
from waterline.spec import DTYPE_BYTES, ConvSpec


@dataclass(frozen=True)
class PlanOptions:
    """What the planner may do.

    Attributes:
        algorithms: allowed names, or name:variant (empty: all).
        accuracy: the policy, one of `waterline.algorithms.base.ACCURACIES`.
        workspace_bytes: the arena may not be larger (None: no limit).
        block_fusion: whether several layers may become one kernel. Naming `algorithms` without it forbids it too.
        blocks: names of the layers of each block that becomes one kernel where it can, whatever it costs, and no others
            do (None: by cost). For experiments; `compile` has no such option.
    """

    algorithms: tuple[str, ...] = ()
    accuracy: str = "default"
    workspace_bytes: int | None = None
    block_fusion: bool = True
    blocks: tuple[tuple[str, ...], ...] | None = None

    @property
    def fuses(self) -> bool:
        return self.block_fusion and (not self.algorithms or BLOCK_FUSION.name in self.algorithms)


def plan(
    graph: Graph, machine: Machine | Target, options: PlanOptions | None = None, measured: Measurements | None = None
) -> Plan:
    """Lay `graph` out for `machine`. Layers that `measured` has get what was fastest, the others what costs least.

    A graph's dtype is that of its tensors between layers, whatever its constants are held in.

    Raises:
        Refused: a layer is served by none of the allowed algorithms, or by none within the limit of memory.
        InvalidArgument: the arena would exceed `options.workspace_bytes` even without workspaces.
    """
    options = options or PlanOptions()
    target = target_of(machine)
    planning = _Planning(graph, target, options, measured or Measurements())
    try:
        steps, offsets, arena_bytes = planning.run()
    except InvalidArgument:
        if not options.fuses:
            raise
        planning = _Planning(graph, target, options, measured or Measurements(), eagerly=True)
        steps, offsets, arena_bytes = planning.run()
    lowered = planning.lowered
    return Plan(
        network=graph.name,
        machine=target.name,
        inputs=tuple((name, graph.shapes[name]) for name in graph.inputs),
        outputs=tuple((name, graph.shapes[name]) for name in graph.outputs),
        buffers={name: _buffer(lowered, name, elems, offsets) for name, elems in lowered.root_elems.items()},
        steps=tuple(steps),
        arena_bytes=arena_bytes,
    )


class _Planning:
    """Choices of layers and their places in memory, which depend on each other where memory is limited."""

    def __init__(
        self,
        graph: Graph,
        target: Target,
        options: PlanOptions,
        measured: Measurements,
        *,
        eagerly: bool = False,
    ) -> None:
        self.lowered = lower(graph, target.layouts)
        self.target = target.for_weights(self.lowered.weight_bytes)
        self.dtype = graph.dtype
        self.options = options
        self.measured = measured
        self.choices: dict[ConvSpec, Choice] = {}
        self.rooms: Rooms | None = None
        self.fusions: dict[int, Fusion] = {}
        if options.fuses:
            self.lowered, self.fusions = self.target.group(
                self.lowered, self._layer_seconds, eagerly=eagerly, only=options.blocks
            )
        self.tensors = lifetimes(self.lowered, DTYPE_BYTES[graph.dtype])
        if options.workspace_bytes is not None:
            self.rooms = Rooms(options.workspace_bytes, alive_bytes(self.tensors, len(self.lowered.layers)))

    def _layer_seconds(self, index: int) -> float:
        """Predicted for as many images as blocks are; infinite where no algorithm that is allowed serves the layer."""
        layer = self.lowered.layers[index]
        if not isinstance(layer.spec, ConvSpec):
            return self.target.operator_seconds(layer)
        step = replace(self._operator(layer), spec=layer.spec)
        try:
            choice = self._choice(index, layer.spec, step)
        except Refused:
            return math.inf
        spec = self.target.compared(layer.spec)
        return float(choice.algorithm.cost(spec, choice.config, *self.target.where).seconds)

    def _candidates(self, layer: Layer) -> tuple[Candidate, ...]:
        """What was considered for a layer of a block by itself."""
        choice = self.choices.get(layer.spec) if isinstance(layer.spec, ConvSpec) else None
        return choice.candidates if choice else ()

    def run(self) -> tuple[list[Step], dict[str, int], int]:
        """The steps, where everything lies in the arena, and its size.

        Under a limit each layer's workspaces get what the tensors beside them leave. Gaps may still push the arena over
        it: then workspaces are given up one after the other, until it fits.
        """
        limit = self.options.workspace_bytes
        steps = [self._step(i) for i in range(len(self.lowered.layers))]
        while True:
            sizes = [self.target.workspaces(step) for step in steps]
            lifetimes = self.tensors + [
                Lifetime(f"workspace:{i}:{name}", size, i, i)
                for i, each in enumerate(sizes)
                for name, size in each.items()
            ]
            offsets, arena_bytes = place(lifetimes)
            if limit is None or self.rooms is None or arena_bytes <= limit:
                break
            step = culprit(lifetimes, offsets, limit, sizes)
            if step is None:
                raise InvalidArgument(
                    f"the network needs {arena_bytes} bytes between its layers, workspace_bytes allows {limit}",
                    "raise workspace_bytes, or run a smaller batch",
                )
            self.rooms.give_up(step, sizes[step])
            steps[step] = self._step(step)
        placed = [
            replace(step, workspaces=tuple((name, offsets[f"workspace:{i}:{name}"]) for name in sizes[i]))
            for i, step in enumerate(steps)
        ]
        return placed, offsets, arena_bytes

    def _step(self, index: int) -> Step:
        layer = self.lowered.layers[index]
        step = self._operator(layer)
        if layer.spec is None:
            return replace(step, candidates=self.target.operator(step))
        if index in self.fusions:
            fusion = self.fusions[index]
            return replace(
                step,
                algorithm=fusion.algorithm,
                spec=layer.spec,
                config=fusion.config,
                candidates=fusion.candidates,
                parts=fusion.parts(self._candidates, self.dtype),
            )
        assert isinstance(layer.spec, ConvSpec)
        step = replace(step, spec=layer.spec, weight=layer.weight, bias=layer.bias)
        choice = self._choice(index, layer.spec, step)
        together = Candidate(BLOCK_FUSION.name, None, layer.alone or NOT_ALLOWED)
        candidates = (*choice.candidates, together)
        return replace(step, algorithm=choice.algorithm.name, config=choice.config, candidates=candidates)

    def _operator(self, layer: Layer) -> Step:
        return Step(layer.name, layer.op, tuple(layer.inputs), tuple(layer.outputs), dtype=self.dtype)

    def _choice(self, index: int, spec: ConvSpec, step: Step) -> Choice:
        """Without a limit one for all layers that are alike."""
        options, rooms = self.options, self.rooms
        if rooms is None and spec in self.choices:
            return self.choices[spec]

        def memory(algorithm: Any, config: Any) -> str:
            assert rooms is not None
            return rooms.refusal(index, self.target.workspaces(replace(step, algorithm=algorithm.name, config=config)))

        choice = choose(
            spec,
            self.target,
            options.algorithms,
            options.accuracy,
            step.name,
            timings=self.measured.of(spec, options.algorithms, options.accuracy, self.target.decided(spec).n),
            memory=None if rooms is None else memory,
        )
        self.choices[spec] = choice
        return choice


def _buffer(lowered: Lowered, name: str, elems: int, offsets: dict[str, int]) -> Buffer:
    if name in lowered.inputs:
        return Buffer("input", elems, index=lowered.inputs[name])
    if name in lowered.outputs:
        return Buffer("output", elems, index=lowered.outputs[name])
    if name in lowered.constants:
        return Buffer("constant", elems, constant=lowered.constants[name])
    return Buffer("arena", elems, offset_bytes=offsets.get(name, 0))
