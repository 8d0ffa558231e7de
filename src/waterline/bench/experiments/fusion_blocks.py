"""Whole residual blocks of a network: the layers that a kernel of block fusion would be written for by hand.

The planner fuses what is cheaper together, which may be less than a residual block or reach beyond one. To say what
fusing a block is worth, the blocks have to be named without it: a filter with groups (depthwise or grouped) and the 1x1
layers around it that widen and narrow its channels.

* Inverted residual (Sandler et al. 2018): 1x1 that widens, depthwise, 1x1 that narrows; the first has no widening.
* ConvFirst (Lavin 2024): grouped, 1x1 that widens, 1x1 that narrows.
* ConvNeXt (Liu et al. 2022): depthwise, LayerNorm, 1x1 that widens, 1x1 that narrows.

Activations, biases, scales and residuals are part of these layers. A block of squeeze and excite is none of them: its
filter is followed by a sum over the whole image, which nothing behind it can begin before.
"""

from __future__ import annotations

from collections.abc import Sequence

from waterline.graph.ops import LayerNorm
from waterline.planner import Step
from waterline.spec import ConvSpec

Names = tuple[str, ...]


def whole_blocks(steps: Sequence[Step]) -> list[Names]:
    """The names of the layers of each residual block, of a plan without fused ones."""
    found = []
    for i, step in enumerate(steps):
        if isinstance(step.spec, ConvSpec) and step.spec.groups > 1:
            begin = i - 1 if i and _widens(steps[i - 1]) and _reads(step, steps[i - 1]) else i
            end = _end(steps, i, is_wide=begin < i)
            if end is not None:
                found.append(tuple(each.name for each in steps[begin:end]))
    return found


def _end(steps: Sequence[Step], at: int, *, is_wide: bool) -> int | None:
    """Behind the layer that ends the block whose filter is step `at`; None where what follows is something else."""
    end = at + 1
    while end < len(steps) and _reads(steps[end], steps[end - 1]):
        step = steps[end]
        end += 1
        if _is_pointwise(step):
            if is_wide or not _widens(step):
                return end
            is_wide = True
        elif not isinstance(step.op, LayerNorm):
            return None
    return None


def name_of(layers: Sequence[str]) -> str:
    """What the layers' names begin with, up to a number: the block's own name; of several blocks the first and last."""
    first, last = layers[0].split("."), layers[-1].split(".")
    common = 0
    while common < min(len(first), len(last)) - 1 and first[common] == last[common]:
        common += 1
    own = next((i for i in range(common, 0, -1) if first[i - 1].isdigit()), 0)
    if own:
        return ".".join(first[:own])
    return f"{'.'.join(first[: common + 1])} to {'.'.join(last[: common + 1])}"


def _is_pointwise(step: Step) -> bool:
    return isinstance(step.spec, ConvSpec) and step.spec.groups == 1 and step.spec.taps == 1


def _widens(step: Step) -> bool:
    return _is_pointwise(step) and isinstance(step.spec, ConvSpec) and step.spec.k > step.spec.c


def _reads(step: Step, before: Step) -> bool:
    return before.outputs[0].root in {storage.root for storage in step.inputs}
