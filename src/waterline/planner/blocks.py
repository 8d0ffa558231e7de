"""`group_blocks`: which layers of a network become one kernel, by comparing each block with the sum of its parts.

It works on layers, not on the graph's nodes, because there transposes, reshapes and slices have become views: what is
left between two layers is memory. Any layers that follow each other may be a block if nothing between them is read
elsewhere; of all ways to cut the network into blocks and single layers the cheapest is taken.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from waterline.algorithms.block_fusion import BLOCK_FUSION
from waterline.algorithms.block_fusion.layers import algorithm_of
from waterline.algorithms.block_fusion.model import BlockConfig
from waterline.algorithms.operator_cost import operator_seconds, step_seconds
from waterline.graph.block import BlockSpec
from waterline.machine import Machine
from waterline.planner.grouping import Group, group_of, may_join, users_of
from waterline.planner.lower import Fused, Layer, Lowered
from waterline.planner.memory import lifetimes, place
from waterline.planner.plan import Candidate, Step
from waterline.spec import DTYPE_BYTES

# A bottleneck with a convolution on its shortcut has four layers, ConvNeXt's block four or, with a scale that could not
# be folded, five; a stem with the first depthwise and pointwise layers has three.
MOST_LAYERS = 5
# What it is worth that a tensor needs no memory, in parts of the time in which it would be written to the last level.
# Several guesses, for how much the arena shrinks is known only of a whole network.
TENSOR_WORTHS = (0.15, 0.3)
# Of the second-level cache, what the buffers of the blocks may take: the largest of them counts, once for each thread.
BUFFER_SHARES = (0.5, 0.36, 0.25, 0.18, 0.125, 0.09)
# What a byte of the arena and of all threads' buffers is worth in the end, in the same time.
MEMORY_WORTH = 3.0
EAGER_WEIGHT = 1e-3
NEVER = 1e9  # the ratio of times of a block that is not possible
MANY_IMAGES = 16
# Layers of many images take that much longer against their price than blocks do: what they write and the next one reads
# passes through the last-level cache. (ConvNeXt-T and ConvFirst-tiny, 16 images: 1.03 to 1.04 on one core, 1.00 to 1.03
# on two.)
MANY_IMAGES_COST = 1.025


@dataclass(frozen=True)
class Way:
    """How a block may be computed, with its predicted time and the bytes of a thread's buffers."""

    algorithm: str
    config: Any
    seconds: float
    buffer_bytes: int = 0


@dataclass(frozen=True)
class Pricing:
    """What blocks cost on a target.

    Attributes:
        batched: a block with the number of images that its price is of.
        ways: how a block may be computed, fastest first, or why it may not.
        refuse: why a group may not be one for where its tensors lie, or "".
        least_seconds: in which a block's operations could be done.
        step_seconds: what a step costs whatever it computes.
    """

    batched: Callable[[BlockSpec], BlockSpec]
    ways: Callable[[BlockSpec], list[Way] | str]
    refuse: Callable[[Group], str]
    least_seconds: Callable[[BlockSpec], float]
    step_seconds: float


@dataclass(frozen=True)
class Fusion:
    """A group that is computed as one."""

    group: Group
    way: Way
    parts_seconds: float

    @property
    def config(self) -> Any:
        return self.way.config

    @property
    def seconds(self) -> float:
        return self.way.seconds

    @property
    def algorithm(self) -> str:
        return self.way.algorithm

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        return (
            Candidate(self.algorithm, self.seconds, config=self.config),
            Candidate("one layer after the other", self.parts_seconds),
        )

    def parts(self, alone: Callable[[Layer], tuple[Candidate, ...]], dtype: str = "f32") -> tuple[Step, ...]:
        """The layers as they would be by themselves, with what was considered for that, and with the algorithm that
        each has inside, where layers of a block have algorithms."""
        inside: Sequence[tuple[str, Any]] = [("", None)] * len(self.group.layers)
        if isinstance(self.config, BlockConfig):
            names = ["" if own.spec is None else algorithm_of(own.spec).name for own in self.group.block.layers]
            inside = list(zip(names, self.config.layers, strict=True))
        return tuple(
            Step(
                layer.name,
                layer.op,
                tuple(layer.inputs),
                tuple(layer.outputs),
                algorithm=algorithm,
                spec=layer.spec,
                config=config,
                weight=layer.weight,
                bias=layer.bias,
                candidates=alone(layer),
                dtype=dtype,
            )
            for layer, (algorithm, config) in zip(self.group.layers, inside, strict=True)
        )


def group_blocks(
    lowered: Lowered,
    machine: Machine,
    layer_seconds: Callable[[int], float],
    *,
    eagerly: bool = False,
    only: Collection[tuple[str, ...]] | None = None,
) -> tuple[Lowered, dict[int, Fusion]]:
    """Lowered layers with blocks in the place of those that are cheaper together, and the fusion of each by position.

    Args:
        layer_seconds: predicted of layer number i for `priced_batch` images on all cores, without what a step costs by
            itself.
        eagerly: every block that can be fused is, whatever it costs: for the sake of memory.
        only: names of the layers of each block that may be fused, and then is, whatever it costs.
    """
    layers = lowered.layers
    eagerly = eagerly or only is not None
    pricing = _pricing(machine)
    cost = [MANY_IMAGES_COST if _images(layer) > 1 else 1.0 for layer in layers]
    singles = [layer_seconds(i) * cost[i] + pricing.step_seconds for i in range(len(layers))]
    reasons = [_Reason() for _ in layers]
    offers = _offers(lowered, pricing, singles, reasons, eagerly=eagerly, only=only)
    if eagerly:
        return _rewritten(lowered, _cut(singles, offers, lambda block, seconds: EAGER_WEIGHT * seconds), reasons)
    found: list[tuple[float, Lowered, dict[int, Fusion]]] = []
    for share, each in itertools.product(BUFFER_SHARES, TENSOR_WORTHS):
        taken = _cut(singles, offers, partial(worth, machine=machine, each=each), share * machine.l2_bytes)
        rewritten, fusions = _rewritten(lowered, taken, reasons)
        gained = sum(fusion.parts_seconds - fusion.seconds for fusion in fusions.values())
        found.append((_memory_seconds(rewritten, fusions, machine) - gained, rewritten, fusions))
    _, rewritten, fusions = min(found, key=lambda choice: choice[0])
    return rewritten, fusions


def group_by_time(
    lowered: Lowered,
    pricing: Pricing,
    layer_seconds: Callable[[int], float],
    *,
    eagerly: bool = False,
    only: Collection[tuple[str, ...]] | None = None,
) -> tuple[Lowered, dict[int, Fusion]]:
    """As `group_blocks`, where memory has no price: for targets whose blocks need no buffers."""
    eagerly = eagerly or only is not None
    singles = [layer_seconds(i) + pricing.step_seconds for i in range(len(lowered.layers))]
    reasons = [_Reason() for _ in singles]
    offers = _offers(lowered, pricing, singles, reasons, eagerly=eagerly, only=only)
    weight = EAGER_WEIGHT if eagerly else 1.0
    return _rewritten(lowered, _cut(singles, offers, lambda block, seconds: weight * seconds), reasons)


def _pricing(machine: Machine) -> Pricing:
    return Pricing(
        batched=lambda block: block.with_batch(priced_batch(block.n)),
        ways=lambda block: _priced(block, machine),
        refuse=lambda group: "",
        least_seconds=lambda block: block.flops / machine.peak(machine.cores),
        step_seconds=step_seconds(machine),
    )


@dataclass(frozen=True)
class _Offer:
    """What layers from `begin` on may be as one: every way, fastest first."""

    begin: int
    group: Group
    block: BlockSpec  # as it is priced
    parts_seconds: float
    ways: tuple[Way, ...]


def _offers(
    lowered: Lowered,
    pricing: Pricing,
    singles: Sequence[float],
    reasons: Sequence[_Reason],
    *,
    eagerly: bool,
    only: Collection[tuple[str, ...]] | None,
) -> list[list[_Offer]]:
    """For each layer the blocks that end with it; tells `reasons` what became of them."""
    layers, users = lowered.layers, users_of(lowered)
    known: dict[BlockSpec, list[Way] | str] = {}
    found: list[list[_Offer]] = []
    for end in range(1, len(layers) + 1):
        found.append([])
        for begin in range(end - 2, max(-1, end - 1 - MOST_LAYERS), -1):
            if not may_join(layers[begin]):
                break
            if only is not None and tuple(layer.name for layer in layers[begin:end]) not in only:
                continue
            group = group_of(lowered, begin, end, users)
            if group is None:
                continue
            block = pricing.batched(group.block)
            parts = sum(singles[begin:end])
            if not eagerly and pricing.least_seconds(block) > parts:
                _tell(reasons[begin:end], "by themselves its layers have algorithms of fewer operations")
                continue
            if block not in known:
                known[block] = pricing.ways(block)
            priced = pricing.refuse(group) or known[block]
            if isinstance(priced, str):
                _tell(reasons[begin:end], priced)
                continue
            ways = tuple(replace(way, seconds=way.seconds + pricing.step_seconds) for way in priced)
            least = ways[0].seconds
            _tell(reasons[begin:end], _compared(layers[begin:end], least, parts, block.n), least / parts)
            found[-1].append(_Offer(begin, group, block, parts, ways))
    return found


def _cut(
    singles: Sequence[float],
    offers: Sequence[Sequence[_Offer]],
    counted: Callable[[BlockSpec, float], float],
    most_bytes: float = math.inf,
) -> list[Fusion | None]:
    """For each layer the block that ends with it in the cheapest cut of the layers before and with it.

    Args:
        counted: what a block counts of its time. most_bytes: of buffers that a block may have.
    """
    best = [0.0]  # of the layers before i
    taken: list[Fusion | None] = []
    for single, offered in zip(singles, offers, strict=True):
        least, fusion = best[-1] + single, None
        for offer in offered:
            way = next((way for way in offer.ways if way.buffer_bytes <= most_bytes), None)
            if way is None:
                continue
            total = best[offer.begin] + counted(offer.block, way.seconds)
            if total < least:
                least, fusion = total, Fusion(offer.group, way, offer.parts_seconds)
        best.append(least)
        taken.append(fusion)
    return taken


def _memory_seconds(lowered: Lowered, fusions: Mapping[int, Fusion], machine: Machine) -> float:
    """What the memory of a network is worth: the arena, as for `priced_batch` images, and all threads' buffers."""
    tensors = lifetimes(lowered, DTYPE_BYTES["f32"])
    buffers = 0
    if fusions:
        n = next(iter(fusions.values())).group.block.n
        tensors = [replace(each, size_bytes=each.size_bytes * priced_batch(n) // max(n, 1)) for each in tensors]
        buffers = max(
            BLOCK_FUSION.buffer_bytes(fusion.group.block, fusion.config.buffer_rows) for fusion in fusions.values()
        )
    size_bytes = place(tensors)[1] + machine.cores * buffers
    return MEMORY_WORTH * size_bytes / machine.bytes_per_s("l3", machine.cores)


@dataclass
class _Reason:
    """Why a layer is in no block: of those that it could be in, the one that came nearest."""

    text: str = "nothing beside it can be joined with it"
    ratio: float = math.inf


def _tell(reasons: Sequence[_Reason], text: str, ratio: float = NEVER) -> None:
    for reason in reasons:
        if ratio < reason.ratio:
            reason.text, reason.ratio = text, ratio


def _images(layer: Layer) -> int:
    shape = layer.outputs[0].view.shape
    return shape[0] if shape else 1


def _compared(layers: Sequence[Layer], seconds: float, parts: float, n: int) -> str:
    images = "" if n <= 1 else f" for {n} images"
    return (
        f"{layers[0].name} to {layers[-1].name} would take {seconds * 1e6:.1f} us together, "
        f"{parts * 1e6:.1f} us one after the other{images}"
    )


def worth(block: BlockSpec, seconds: float, machine: Machine, each: float) -> float:
    """What the time of a block counts beside that of its layers; `each`: see `TENSOR_WORTHS`."""
    return seconds - each * block.inner_bytes / machine.bytes_per_s("l3", machine.cores)


def priced_batch(n: int) -> int:
    """The number of images that a choice is made for: one, or many whatever their number, so that there are two sets of
    kernels at most and a new batch size compiles nothing."""
    return 1 if n <= 1 else MANY_IMAGES


def operator_price(layer: Layer, machine: Machine) -> float:
    """Of a layer that is no convolution, for `priced_batch` images."""
    n = max(_images(layer), 1)
    elems = sum(storage.view.elems for storage in (*layer.inputs, *layer.outputs)) * priced_batch(n) // n
    return operator_seconds(layer.op, DTYPE_BYTES["f32"] * elems, machine)


def _priced(block: BlockSpec, machine: Machine) -> list[Way] | str:
    """Every config with its time and the bytes of its buffers, or the reason of a refusal."""
    if refusal := BLOCK_FUSION.refuse(block, machine):
        return refusal.reason
    return [
        Way(BLOCK_FUSION.name, config, cost.seconds, BLOCK_FUSION.buffer_bytes(block, config.buffer_rows))
        for config, cost in BLOCK_FUSION.priced(block, machine)
    ]


def _rewritten(
    lowered: Lowered, taken: Sequence[Fusion | None], reasons: Sequence[_Reason]
) -> tuple[Lowered, dict[int, Fusion]]:
    chosen: list[tuple[int, Fusion | None]] = []  # how many layers, from the last on
    end = len(taken)
    while end:
        fusion = taken[end - 1]
        chosen.append((end, fusion))
        end -= 1 if fusion is None else len(fusion.group.layers)
    layers: list[Layer] = []
    fusions: dict[int, Fusion] = {}
    inner: set[str] = set()
    for end, fusion in reversed(chosen):
        if fusion is None:
            layers.append(replace(lowered.layers[end - 1], alone=reasons[end - 1].text))
            continue
        group = fusion.group
        fusions[len(layers)] = fusion
        inner |= {layer.outputs[0].root for layer in group.layers[:-1]}
        name = f"{group.layers[0].name} to {group.layers[-1].name}"
        op = Fused(len(group.layers))
        layers.append(Layer(name, op, list(group.inputs), [group.output], spec=group.block))
    roots = {name: elems for name, elems in lowered.root_elems.items() if name not in inner}
    return replace(lowered, layers=layers, root_elems=roots), fusions


__all__ = ["Fusion", "Group", "Pricing", "Way", "group_blocks", "group_by_time", "operator_price"]
