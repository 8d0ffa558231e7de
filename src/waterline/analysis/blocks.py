"""Which steps of a plan could be one kernel.

A kernel that computes several layers depth-first keeps what is between them near the core: a part of the image goes
through all of them before the next part begins (Lavin 2024, "block fusion"). Three rules find such blocks:

1. Where only one tensor is alive between two steps, a block may end: between two such places lies a step, or branches
   that meet again (residual blocks with or without a convolution on the shortcut, fire and inception modules).
2. In a plain chain, a depthwise or grouped convolution belongs to the pointwise ones beside it: those before it, and
   behind it up to the one that narrows the image again (MobileNet's blocks that have no shortcut, ConvFirst's). A
   pointwise convolution that narrows the image belongs to the branches behind it (SqueezeNet's squeeze).
3. A step that gives nothing before it has seen the whole image (global pooling, as in squeeze-and-excite; attention)
   ends a kernel: what follows begins another one.

Every other step is a block of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from waterline.graph import ops
from waterline.graph.block import BlockSpec
from waterline.planner import Plan, Step
from waterline.spec import ConvSpec, TensorView

# More layers between two places with one living tensor are no block but a network with a long connection, as from the
# encoder of a U-Net to its decoder. The longest module meant as one block is Inception's, with 12 steps.
MOST_LAYERS = 16

Run = range  # positions of steps that follow each other

_LOCAL_OPS = (ops.Unary, ops.Binary, ops.PRelu, ops.BatchNorm, ops.LayerNorm)


def find_blocks(plan: Plan) -> tuple[Run, ...]:
    """Positions of the steps of each block, in order; every step is in one."""
    steps = plan.steps
    if not steps:
        return ()
    lifetimes = _lifetimes(plan)
    regions = _regions(range(len(steps)), lifetimes)
    return tuple(part for block in _joined(regions, steps) for part in _split(block, steps))


# ---- rule 1: branches -----------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Lifetime:
    root: str
    first: int  # the step that writes it first; -1: it is there before
    last: int  # the step that reads it last

    def is_alive_before(self, step: int) -> bool:
        return self.first < step <= self.last


def _lifetimes(plan: Plan) -> list[_Lifetime]:
    """Of every tensor but constants."""
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for i, step in enumerate(plan.steps):
        for storage in step.outputs:
            first.setdefault(storage.root, i)
        for storage in step.inputs:
            if plan.buffers[storage.root].kind != "constant":
                first.setdefault(storage.root, -1)
                last[storage.root] = i
    return [_Lifetime(root, first[root], last[root]) for root in last]


def _regions(run: Run, lifetimes: Sequence[_Lifetime]) -> list[Run]:
    """Cut a run wherever at most one of the tensors is alive.

    In a piece that is too long the tensor that lives longest is not counted: it is a connection past several blocks.
    """
    ends = [i for i in run[1:] if sum(each.is_alive_before(i) for each in lifetimes) <= 1]
    found: list[Run] = []
    for begin, end in zip([run.start, *ends], [*ends, run.stop], strict=True):
        piece = range(begin, end)
        inside = [each for each in lifetimes if any(each.is_alive_before(i) for i in piece[1:])]
        if len(piece) <= MOST_LAYERS or not inside:
            found.append(piece)
            continue
        longest = max(inside, key=lambda each: each.last - each.first)
        found += _regions(piece, [each for each in inside if each != longest])
    return found


# ---- rule 2: chains -------------------------------------------------------------------------------------------------
def _joined(regions: Sequence[Run], steps: Sequence[Step]) -> list[Run]:
    found: list[Run] = []
    i = 0
    while i < len(regions):
        count = _chain(regions[i:], steps)
        found.append(range(regions[i].start, regions[i + count - 1].stop))
        i += count
    return found


def _chain(regions: Sequence[Run], steps: Sequence[Step]) -> int:
    """How many regions from the first on are one block."""
    heads = [steps[region.start] if len(region) == 1 else None for region in regions[:2]]
    if _is_squeeze(regions, steps):
        return 2
    if (
        len(heads) == 2
        and _is_pointwise(heads[0])
        and _is_grouped(heads[1])
        and _follows(regions[1], regions[0], steps)
    ):
        count = 2
    elif _is_grouped(heads[0]):
        count = 1
    else:
        return 1
    accepted = count  # steps that only lead to a pointwise convolution come along if there is one
    has_widened = False
    while count < len(regions) and _follows(regions[count], regions[count - 1], steps):
        region = regions[count]
        step = steps[region.start]
        count += 1
        if len(region) > 1:
            if not is_global(step):  # squeeze-and-excite begins with a global step, other branches are other blocks
                break
        elif _is_pointwise(step):
            assert isinstance(step.spec, ConvSpec)
            narrows = step.spec.k <= step.spec.c
            if has_widened and not narrows:
                break
            accepted, has_widened = count, True
            if narrows:
                break
        elif not (isinstance(step.op, _LOCAL_OPS) and not is_global(step)):
            break
    return accepted


def _is_squeeze(regions: Sequence[Run], steps: Sequence[Step]) -> bool:
    """Whether a pointwise convolution that narrows the image comes before branches."""
    if len(regions) < 2 or len(regions[0]) > 1 or len(regions[1]) == 1 or is_global(steps[regions[1].start]):
        return False
    spec = steps[regions[0].start].spec
    is_narrowing = isinstance(spec, ConvSpec) and spec.is_pointwise and spec.groups == 1 and spec.k < spec.c
    return is_narrowing and _follows(regions[1], regions[0], steps)


def _follows(run: Run, before: Run, steps: Sequence[Step]) -> bool:
    """Whether the first step of one run reads what the other one has written."""
    written = {storage.root for i in before for storage in steps[i].outputs}
    return any(storage.root in written for storage in steps[run.start].inputs)


def _is_pointwise(step: Step | None) -> bool:
    return step is not None and isinstance(step.spec, ConvSpec) and step.spec.is_pointwise and step.spec.groups == 1


def _is_grouped(step: Step | None) -> bool:
    return step is not None and isinstance(step.spec, ConvSpec) and step.spec.groups > 1


# ---- rule 3: global steps -------------------------------------------------------------------------------------------
def _split(block: Run, steps: Sequence[Step]) -> list[Run]:
    """The block in parts, each but the last with a global step at its end."""
    ends = [i + 1 for i in block[:-1] if is_global(steps[i])]
    return [range(begin, end) for begin, end in zip([block.start, *ends], [*ends, block.stop], strict=True)]


def is_global(step: Step) -> bool:
    """Whether each output of a step depends on the whole image, so that nothing behind it can begin before its end."""
    op, x = step.op, step.inputs[0].view if step.inputs else TensorView((), ())
    if isinstance(step.spec, BlockSpec):
        return False
    if step.spec is not None:
        spec = step.spec
        return (spec.p, spec.q) == (1, 1) and spec.h * spec.w > 1 and spec.pad == (0, 0, 0, 0)
    if isinstance(op, ops.AdaptivePool):
        return op.size == (1, 1)
    if isinstance(op, ops.Pool):
        return op.pad == (0, 0, 0, 0) and step.outputs[0].view.shape[2:] == (1, 1) and x.elems > x.shape[0] * x.shape[1]
    if isinstance(op, ops.MatMul | ops.GroupNorm):
        return True
    if isinstance(op, ops.Reduce):
        return _mixes_pixels(x, op.axes)
    if isinstance(op, ops.LayerNorm):
        return _mixes_pixels(x, range(op.axis, len(x.shape)))
    return isinstance(op, ops.Softmax) and _mixes_pixels(x, (op.axis,))


def _mixes_pixels(x: TensorView, axes: Sequence[int]) -> bool:
    """Whether an axis is neither the batch nor the channels, which are neighbours in memory."""
    return any(axis > 0 and x.shape[axis] > 1 and x.strides[axis] != 1 for axis in axes)
