"""One layer's candidates measured as they run inside a network: weights out of the caches, the input just written.

A layer alone in a loop keeps its weights in the caches, which flatters algorithms with large transformed weights. So
the candidates take turns within one native call, and before each
* a buffer is read by all threads, as large as what the rest of the network moves through the caches (at most the last
  level, and 64 MiB), and
* the residual and the input are written by all threads, as the layers before would.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from waterline.codegen.cpu.memory import aligned_bytes, aligned_zeros
from waterline.graph.ops import Conv, Reduce
from waterline.machine import Machine
from waterline.planner import Buffer, CpuTarget, Plan, Step, Storage
from waterline.planner.choice import Offer
from waterline.planner.lower import Copy
from waterline.planner.memory import Lifetime, place
from waterline.runtime.cache import ObjectCache
from waterline.runtime.program import Program
from waterline.runtime.weights import PackedWeights
from waterline.spec import ConvSpec, TensorView, channels_last

MOST_DISPLACED_BYTES = 64 << 20
ROW_ELEMS = 4096  # the buffer is read in rows of so many elements, each an item for a thread
_RANDOM_ELEMS = 1 << 16  # random numbers are repeated: making hundreds of millions takes longer than measuring


class Displacement:
    """The buffer that is read between two candidates; one for all layers of a network."""

    def __init__(self, machine: Machine, most_bytes: int) -> None:
        last_level = machine.l3_bytes or machine.l2_bytes
        rows = min(most_bytes, last_level, MOST_DISPLACED_BYTES) // (4 * ROW_ELEMS)
        self._memory = aligned_bytes(rows * 4 * ROW_ELEMS).view(np.float32)
        self._memory.fill(1)  # pages never written to all share one page of zeros, which stays in L1

    def rows(self, size_bytes: int) -> np.ndarray:
        """An array of (rows, ROW_ELEMS) of about so many bytes, or of all there are."""
        count = min(self._memory.size // ROW_ELEMS, size_bytes // (4 * ROW_ELEMS))
        return self._memory[: count * ROW_ELEMS].reshape(count, ROW_ELEMS)


class Trial:
    """Candidates of one layer in one program, ready to be run in turns.

    Args:
        spec: the layer, with the batch to run.
        displaced: of `Displacement.rows`.
        like: a trial of more candidates of the same layer, whose tensors and packed weights are used.

    Raises:
        Refused, Error: a candidate cannot be packed, or there is no memory for it.
    """

    def __init__(
        self,
        spec: ConvSpec,
        offers: Sequence[Offer],
        machine: Machine,
        cache: ObjectCache,
        displaced: np.ndarray,
        like: Trial | None = None,
    ) -> None:
        self.layout: _Layout = _Layout(spec, displaced) if like is None else like.layout
        self.weights: PackedWeights = PackedWeights(self.layout.constants, machine) if like is None else like.weights
        layout = self.layout
        steps: list[Step] = []
        for offer in offers:
            steps += layout.before()
            steps.append(layout.layer(offer))
        self._layers = [i for i, step in enumerate(steps) if step.spec is not None]
        sizes = {i: CpuTarget(machine).workspaces(steps[i]) for i in self._layers}
        lifetimes = [Lifetime(name, elems * 4, 0, len(steps)) for name, elems in layout.arena.items()]
        lifetimes += [Lifetime(f"{i}:{name}", size, i, i) for i, each in sizes.items() for name, size in each.items()]
        offsets, arena_bytes = place(lifetimes)
        for i, each in sizes.items():
            steps[i] = replace(steps[i], workspaces=tuple((name, offsets[f"{i}:{name}"]) for name in each))
        buffers = {name: Buffer("arena", elems, offset_bytes=offsets[name]) for name, elems in layout.arena.items()}
        buffers |= {name: Buffer("constant", array.size, constant=name) for name, array in layout.constants.items()}
        plan = Plan("trial", machine.name, (), (), buffers, tuple(steps), arena_bytes)
        self._program = Program(plan, self.weights, machine, cache)
        self._steps = np.array([bound.step for bound in self._program.calls])
        self._times = np.zeros((len(self._steps) + 1, 2), np.int64)

    def run(self, threads: int) -> np.ndarray:
        """One turn of each candidate: seconds of each."""
        self._times[:] = 0
        self._program.run([], threads, self._times)
        moments = np.maximum.accumulate(self._times[:, 0] * 10**9 + self._times[:, 1])  # calls without items have none
        took = np.diff(moments)
        return np.array([took[self._steps == i].sum() for i in self._layers]) / 1e9


class _Layout:
    """Tensors of a trial, and the steps made of them."""

    def __init__(self, spec: ConvSpec, displaced: np.ndarray) -> None:
        self.spec = spec
        x = _nhwc(spec.n, spec.c, spec.h, spec.w)
        y = _nhwc(spec.n, spec.k, spec.p, spec.q)
        self.arena: dict[str, int] = {"x": x.elems, "y": y.elems}
        self.constants = {"new x": _random(x.elems)}
        self.constants["weight"] = _random(spec.k * spec.group_c * spec.taps).reshape(
            spec.k, spec.group_c, spec.r, spec.s
        )
        self.views = {"x": x, "new x": x, "y": y, "weight": TensorView.dense(self.constants["weight"].shape)}
        if spec.epilogue.bias:
            self.constants["bias"] = _random(spec.k)
            self.views["bias"] = TensorView.dense((spec.k,))
        if spec.epilogue.residual:
            self.constants["new residual"] = _random(y.elems)
            self.arena["residual"] = y.elems
            self.views |= {"residual": y, "new residual": y}
        self.has_displacement = len(displaced) > 0
        if self.has_displacement:
            self.constants["displaced"] = displaced
            self.arena["sums"] = len(displaced)
            self.views |= {
                "displaced": TensorView.dense(displaced.shape),
                "sums": TensorView.dense((len(displaced), 1)),
            }

    def before(self) -> list[Step]:
        """What comes before each candidate."""
        steps = []
        if self.has_displacement:
            steps.append(Step("displace", Reduce("max", (1,)), (self._at("displaced"),), (self._at("sums"),)))
        if self.spec.epilogue.residual:
            steps.append(Step("residual", Copy(), (self._at("new residual"),), (self._at("residual"),)))
        steps.append(Step("x", Copy(), (self._at("new x"),), (self._at("x"),)))
        return steps

    def layer(self, offer: Offer) -> Step:
        epilogue = self.spec.epilogue
        names = ["x", "weight"] + ["bias"] * epilogue.bias + ["residual"] * epilogue.residual
        return Step(
            offer.label,
            Conv(),
            tuple(self._at(name) for name in names),
            (self._at("y"),),
            algorithm=offer.algorithm.name,
            spec=self.spec,
            config=offer.config,
            weight="weight",
            bias="bias" if epilogue.bias else "",
        )

    def _at(self, name: str) -> Storage:
        return Storage(name, 0, self.views[name])


def _nhwc(n: int, c: int, h: int, w: int) -> TensorView:
    return TensorView.dense((n, c, h, w), channels_last(4))


def _random(elems: int) -> np.ndarray:
    """Normally distributed, the same for everybody."""
    array = aligned_zeros(elems)
    array[...] = np.resize(np.random.default_rng(0).standard_normal(min(elems, _RANDOM_ELEMS), np.float32), elems)
    return array
