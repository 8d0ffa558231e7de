"""`plan`: from a graph to a `Plan`. Runs nothing; the machine and the options are parameters."""

from __future__ import annotations

from dataclasses import dataclass, replace

from waterline.algorithms import Views, by_name
from waterline.errors import InvalidArgument
from waterline.graph import Graph
from waterline.machine import Machine
from waterline.planner.choice import Choice, choose
from waterline.planner.lower import Layer, Lowered, lower
from waterline.planner.memory import Lifetime, place
from waterline.planner.plan import Buffer, Plan, Step
from waterline.spec import DTYPE_BYTES, ConvSpec


@dataclass(frozen=True)
class PlanOptions:
    """What the planner may do.

    Attributes:
        algorithms: allowed names, or name:variant (empty: all).
        accuracy: the policy, one of `waterline.algorithms.base.ACCURACIES`.
        workspace_bytes: the arena may not be larger (None: no limit).
    """

    algorithms: tuple[str, ...] = ()
    accuracy: str = "default"
    workspace_bytes: int | None = None


def plan(graph: Graph, machine: Machine, options: PlanOptions | None = None) -> Plan:
    """Lay `graph` out for `machine`.

    Raises:
        Refused: a layer is served by none of the allowed algorithms.
        InvalidArgument: the arena would exceed `options.workspace_bytes`.
    """
    options = options or PlanOptions()
    lowered = lower(graph)
    choices: dict[ConvSpec, Choice] = {}
    steps = [_step(layer, machine, options, choices) for layer in lowered.layers]
    workspaces = [workspace_bytes(step, machine) for step in steps]
    offsets, arena_bytes = place(_lifetimes(lowered, workspaces, DTYPE_BYTES[graph.dtype]))
    if options.workspace_bytes is not None and arena_bytes > options.workspace_bytes:
        raise InvalidArgument(
            f"the network needs {arena_bytes} bytes between its layers, "
            f"workspace_bytes allows {options.workspace_bytes}",
            "raise workspace_bytes, or run a smaller batch",
        )
    buffers = {name: _buffer(lowered, name, elems, offsets) for name, elems in lowered.root_elems.items()}
    placed = tuple(
        replace(step, workspaces=tuple((name, offsets[f"workspace:{i}:{name}"]) for name in workspaces[i]))
        for i, step in enumerate(steps)
    )
    return Plan(
        network=graph.name,
        machine=machine.name,
        inputs=tuple((name, graph.shapes[name]) for name in graph.inputs),
        outputs=tuple((name, graph.shapes[name]) for name in graph.outputs),
        buffers=buffers,
        steps=placed,
        arena_bytes=arena_bytes,
    )


def views_of(step: Step) -> Views:
    """The tensors of a convolution's step as an algorithm sees them."""
    assert step.spec is not None
    residual = step.inputs[-1].view if step.spec.epilogue.residual else None
    return Views(step.inputs[0].view, step.outputs[0].view, residual)


def workspace_bytes(step: Step, machine: Machine) -> dict[str, int]:
    if step.spec is None:
        return {}
    return dict(by_name(step.algorithm).implement(step.spec, step.config, views_of(step), machine).workspaces)


def _step(layer: Layer, machine: Machine, options: PlanOptions, choices: dict[ConvSpec, Choice]) -> Step:
    step = Step(layer.name, layer.op, tuple(layer.inputs), tuple(layer.outputs))
    spec = layer.spec
    if spec is None:
        return step
    if spec not in choices:
        choices[spec] = choose(spec, machine, options.algorithms, options.accuracy, layer.name)
    choice = choices[spec]
    return replace(
        step,
        algorithm=choice.algorithm.name,
        spec=spec,
        config=choice.config,
        weight=layer.weight,
        bias=layer.bias,
        candidates=choice.candidates,
    )


def _lifetimes(lowered: Lowered, workspaces: list[dict[str, int]], elem_bytes: int) -> list[Lifetime]:
    """When each root of the arena is first written and last used, and each workspace."""
    outside = lowered.inputs | lowered.outputs | lowered.constants
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for i, layer in enumerate(lowered.layers):
        for storage in (*layer.inputs, *layer.outputs):
            if storage.root not in outside:
                first.setdefault(storage.root, i)
                last[storage.root] = i
    found = [Lifetime(name, lowered.root_elems[name] * elem_bytes, first[name], last[name]) for name in first]
    for i, sizes in enumerate(workspaces):
        found += [Lifetime(f"workspace:{i}:{name}", size, i, i) for name, size in sizes.items()]
    return found


def _buffer(lowered: Lowered, name: str, elems: int, offsets: dict[str, int]) -> Buffer:
    if name in lowered.inputs:
        return Buffer("input", elems, index=lowered.inputs[name])
    if name in lowered.outputs:
        return Buffer("output", elems, index=lowered.outputs[name])
    if name in lowered.constants:
        return Buffer("constant", elems, constant=lowered.constants[name])
    return Buffer("arena", elems, offset_bytes=offsets.get(name, 0))
