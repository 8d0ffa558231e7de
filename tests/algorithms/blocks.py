"""Blocks of layers to fuse, and a way to run any plan with each of its tensors in guarded memory.

A network here is one block and what brings its tensors into the engine's layout and back. It is planned twice: as one
kernel and as the layers by themselves, with the same algorithms.
"""

from __future__ import annotations

import ctypes
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from planner.networks import Building

from algorithms.guards import Guarded
from waterline import reference
from waterline.algorithms.block_fusion import BLOCK_FUSION, model
from waterline.algorithms.block_fusion.cpu import BANDS, BlockKernel
from waterline.api import environment
from waterline.codegen.cpu.clock import COUNTER_BYTES
from waterline.codegen.cpu.kernel import Call
from waterline.graph import Graph
from waterline.graph.block import BlockSpec
from waterline.graph.ops import Binary, Conv, LayerNorm, Pool, PRelu, Transpose, Unary
from waterline.graph.passes import simplify
from waterline.machine import Machine
from waterline.planner import Plan, PlanOptions, Step, blocks, plan
from waterline.runtime.program import COUNTERS, Program
from waterline.runtime.weights import PackedWeights
from waterline.spec import Activation, Epilogue

# What computes layers inside a block: the same has to compute them alone, for the same bits.
PARTS = ("direct_gemm", "indirect", "depthwise", "grouped")
RELU, SILU, GELU = Activation("relu"), Activation("silu"), Activation("gelu")
Pair = int | tuple[int, int]


# ---- networks -------------------------------------------------------------------------------------------------------
class Net(Building):
    """`Building` with convolutions of every kind; nodes are named after their number."""

    def named(self, kind: str) -> str:
        return f"{kind}{len(self.nodes)}"

    def weights(self, name: str, *shape: int) -> str:
        fan_in = int(np.prod(shape[1:])) if len(shape) == 4 else 1
        self.constants[name] = (self.random.standard_normal(shape) / fan_in**0.5).astype(np.float32)
        return name

    def layer(
        self,
        x: str,
        k: int,
        size: Pair = 1,
        *,
        stride: Pair = 1,
        pad: tuple[int, ...] | None = None,
        dilation: Pair = 1,
        groups: int = 1,
        bias: bool = True,
        act: Activation | None = None,
        add: str = "",
        name: str = "",
    ) -> str:
        """A convolution, by default padded so that stride 1 keeps the size; `add` is a residual."""
        (r, s), (dr, ds) = _pair(size), _pair(dilation)
        if pad is None:
            high, wide = dr * (r - 1), ds * (s - 1)
            pad = (high // 2, wide // 2, high - high // 2, wide - wide // 2)
        name = name or self.named("conv")
        inputs = [x, self.weights(f"{name}.weight", k, self.channels(x) // groups, r, s)]
        if bias:
            inputs.append(self.weights(f"{name}.bias", k))
        epilogue = Epilogue(bias=bias, residual=bool(add), after=act)
        if add:
            inputs.append(add)
        op = Conv(_pair(stride), pad, (dr, ds), groups, epilogue)
        return self.put(name, op, *inputs)

    def put(self, name: str, op: object, *inputs: str) -> str:
        """A node whose shape is known at once."""
        self.add(name, op, *inputs)
        shapes = [self.shapes[i] if i in self.shapes else self.constants[i].shape for i in inputs]
        self.shapes[name] = op.infer(shapes)[0]
        return name

    def channels(self, x: str) -> int:
        return self.shapes[x][1]

    def depthwise(self, x: str, size: Pair = 3, **attributes: object) -> str:
        c = self.channels(x)
        return self.layer(x, c, size, groups=c, **attributes)

    def pool(self, x: str, kind: str = "max", size: int = 3, stride: int = 2, pad: int = 1) -> str:
        return self.put(self.named("pool"), Pool(kind, (size, size), (stride, stride), (pad,) * 4), x)

    def unary(self, x: str, function: Activation = SILU) -> str:
        return self.put(self.named("unary"), Unary(function), x)

    def binary(self, kind: str, a: str, b: str) -> str:
        return self.put(self.named("binary"), Binary(kind), a, b)

    def prelu(self, x: str) -> str:
        name = self.named("prelu")
        return self.put(name, PRelu(), x, self.weights(f"{name}.slope", 1, self.channels(x), 1, 1))

    def norm(self, x: str) -> str:
        """Over channels: the tensor goes through the order (N, H, W, C) and back."""
        c, name = self.channels(x), self.named("norm")
        inputs = [self.weights(f"{name}.scale", c), self.weights(f"{name}.bias", c)]
        turned = self.put(f"{name}.turn", Transpose((0, 2, 3, 1)), x)
        return self.put(f"{name}.back", Transpose((0, 3, 1, 2)), self.put(name, LayerNorm(3, 1e-6), turned, *inputs))

    def done(self, *outputs: str) -> Graph:
        inputs = [name for name in self.shapes if name not in {node.output for node in self.nodes}]
        shapes = {name: self.shapes[name] for name in inputs}
        return simplify(Graph("built", inputs, list(outputs), self.nodes, shapes, self.constants).infer())


def _pair(value: Pair) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


# ---- plans ----------------------------------------------------------------------------------------------------------
@contextmanager
def fusing(strip_rows: int | None = None, *, window_strips: int = 3) -> Iterator[None]:
    """Inside, whatever may be fused costs nothing, so that there are as few blocks as can be.

    Args:
        strip_rows: of the result (at most all there are); None: what the cost model likes best.
        window_strips: see `model.WINDOW_STRIPS`, where they fit the cache; 1: buffers hold no row more than they must.
    """

    def priced(block: BlockSpec, machine: Machine) -> list[blocks.Way] | str:
        refusal = BLOCK_FUSION.refuse(block, machine)
        return (
            refusal.reason if refusal else [blocks.Way(BLOCK_FUSION.name, BLOCK_FUSION.configs(block, machine)[0], 0.0)]
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "_priced", priced)
        patch.setattr(blocks, "MOST_LAYERS", 8)
        patch.setattr(model, "WINDOW_STRIPS", (window_strips, 1))
        if strip_rows is not None:
            patch.setattr(model, "strip_heights", lambda block: [min(strip_rows, block.output[2])])
        yield


def fused_plan(graph: Graph, machine: Machine, strip_rows: int | None = None, *, window_strips: int = 3) -> Plan:
    with fusing(strip_rows, window_strips=window_strips):
        return plan(graph, machine, PlanOptions((*PARTS, BLOCK_FUSION.name)))


def unfused_plan(graph: Graph, machine: Machine) -> Plan:
    return plan(graph, machine, PlanOptions(PARTS, block_fusion=False))


def block_steps(made: Plan) -> list[Step]:
    return [step for step in made.steps if step.parts]


# ---- running --------------------------------------------------------------------------------------------------------
class Trial:
    """One execution of a plan. Every tensor, workspace and scratch memory is guarded and begins as NaN.

    Args:
        guard: "behind" or "before" every memory.
        bands: of each image in fused steps; None: as the machine's cores want it.
        is_backwards: items one by one, the last first, each with scratch memory that holds NaN.
    """

    def __init__(
        self,
        made: Plan,
        graph: Graph,
        machine: Machine,
        inputs: Sequence[np.ndarray],
        *,
        guard: str = "behind",
        bands: int | None = None,
        is_backwards: bool = False,
    ) -> None:
        own = {
            name: replace(buffer, kind="own") if buffer.kind == "arena" else buffer
            for name, buffer in made.buffers.items()
        }
        weights = PackedWeights(graph.constants, machine)
        program = Program(replace(made, buffers=own), weights, machine, environment.object_cache())
        self.plan, self._program, self._guard, self._bands = made, program, guard, bands
        self._is_backwards = is_backwards
        self.memory: dict[str, Guarded] = {}
        for name, buffer in own.items():
            if buffer.kind != "constant":
                self.memory[name] = Guarded(name, buffer.elems * 4, guard)
            if buffer.kind == "input":
                self.memory[name].fill(inputs[buffer.index])
        workspace_bytes = max((offset for step in made.steps for _, offset in step.workspaces), default=-1) + 1
        assert workspace_bytes == 0, "the algorithms of blocks have no workspaces"
        self.memory[COUNTERS] = Guarded("counters", max(1, len(program.counters)) * COUNTER_BYTES, guard, aligned=True)
        self._jobs = [self._job(bound.call, bound.words) for bound in program.calls]

    def _job(self, call: Call, words: Sequence[int | tuple[str, int]]) -> Callable[[], None]:
        args = (ctypes.c_int64 * len(words))()
        for i, word in enumerate(words):
            args[i] = word if isinstance(word, int) else self.memory[word[0]].address + word[1]
        items = call.items
        if isinstance(call.kernel, BlockKernel) and self._bands is not None:
            items = items // args[BANDS] * self._bands
            args[BANDS] = self._bands
        scratch_bytes = -(-call.scratch_bytes // 64) * 64
        scratch = Guarded("scratch", scratch_bytes, self._guard, aligned=True)
        function = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)(
            self._program.entries[call.kernel]
        )
        ranges = [(i, i + 1) for i in reversed(range(items))] if self._is_backwards else [(0, items)]
        spoilt = np.full(scratch_bytes // 4, np.nan, np.float32)

        def job() -> None:
            for begin, end in ranges:
                scratch.fill(spoilt)
                function(ctypes.addressof(args), begin, end, scratch.address)
                scratch.check_surroundings()

        return job

    def execute(self) -> None:
        for job in self._jobs:
            job()

    def results(self) -> list[np.ndarray]:
        """The network's outputs, every element written."""
        for memory in self.memory.values():
            memory.check_surroundings()
        found = []
        for index, (name, shape) in enumerate(self.plan.outputs):
            root = next(r for r, b in self.plan.buffers.items() if b.kind == "output" and b.index == index)
            values = self.memory[root].words.view(np.float32).reshape(shape).copy()
            assert not np.isnan(values).any(), f"{name}: {int(np.isnan(values).sum())} elements are NaN"
            found.append(values)
        return found


def check(
    graph: Graph,
    machine: Machine,
    forked: Callable[[Callable[[], object]], str],
    strip_rows: Sequence[int],
    *,
    layers: int = 0,
    bands: Sequence[int | None] = (None,),
    window_strips: int = 3,
) -> None:
    """Everything that is claimed of a network whose layers are fused.

    Args:
        strip_rows: each height is tried.
        layers: that the last block must have; 0: any number.
        bands: of each image, tried in turn; larger numbers than there are strips are taken as that. None: what the
            machine's cores want.
    """
    seed = zlib.crc32(repr([graph.nodes, graph.shapes, machine.isa, strip_rows]).encode())
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    inputs = [rng.standard_normal(graph.shapes[name]).astype(np.float32) for name in graph.inputs]
    trials = {"unfused": Trial(unfused_plan(graph, machine), graph, machine, inputs)}
    for rows in strip_rows:
        made = fused_plan(graph, machine, rows, window_strips=window_strips)
        steps = block_steps(made)
        assert steps, f"nothing is fused: {[step.name for step in made.steps]}"
        assert not layers or len(steps[-1].parts) == layers, [part.name for part in steps[-1].parts]
        for wanted in bands:
            count = None if wanted is None else min([wanted, *(strips_of(step) for step in steps)])
            for guard, is_backwards in (("behind", False), ("before", True)):
                trials[f"strips of {rows}, {count} bands, guarded {guard}"] = Trial(
                    made, graph, machine, inputs, guard=guard, bands=count, is_backwards=is_backwards
                )
    outcome = forked(lambda: [trial.execute() for trial in trials.values()])
    if outcome:
        failed = {name: how for name, trial in trials.items() if (how := forked(trial.execute))}
        raise AssertionError(f"{outcome}: {failed}")
    expected = trials.pop("unfused").results()
    named = dict(zip(graph.inputs, inputs, strict=True))
    exact, bounds = reference.run(graph, named), reference.network_bound(graph, named)
    for name, result in zip(graph.outputs, expected, strict=True):
        # The bound is drawn: of a few elements it may come out too small.
        allowed = max(bounds[name], 1e-6 * float(np.abs(exact[name]).max()))
        comparison = reference.compare(result, exact[name], allowed)
        assert comparison.is_within, f"{name}: {comparison}"
    for how, trial in trials.items():
        for name, result, same in zip(graph.outputs, trial.results(), expected, strict=True):
            wrong = np.argwhere(result != same)
            assert result.tobytes() == same.tobytes(), f"{name}, {how}: {len(wrong)} elements, first {wrong[:1]}"


def strips_of(step: Step) -> int:
    assert isinstance(step.spec, BlockSpec)
    return -(-step.spec.output[2] // step.config.strip_rows)


__all__ = ["PARTS", "Net", "Trial", "block_steps", "check", "fused_plan", "fusing", "strips_of", "unfused_plan"]
