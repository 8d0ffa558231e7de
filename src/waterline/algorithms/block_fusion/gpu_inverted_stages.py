"""Which layer of a block is what to the kernel of `block_fusion:inverted` on GPUs."""

from __future__ import annotations

from dataclasses import dataclass

from waterline.algorithms.base import Refusal
from waterline.algorithms.block_fusion.gpu_packing import is_depthwise
from waterline.algorithms.block_fusion.gpu_stages import Reading, UnfitError, bias_name, is_product, weight_name
from waterline.graph.block import BlockSpec
from waterline.spec import Activation, ConvSpec


@dataclass(frozen=True)
class InvertedStages:
    """Layers by what they do, with their numbers in the block (-1 for what there is not), and names of tensors ("" for
    what there is not).

    Attributes:
        x: the tensor that enters.
        filter: the depthwise convolution. expand, project: 1x1 convolutions before and behind it, at least one of them.
        residual, scale, added, last: behind the last convolution.
    """

    x: str
    expand: ConvSpec | None
    expand_number: int
    filter: ConvSpec
    filter_number: int
    project: ConvSpec | None
    project_number: int
    residual: str
    scale: str
    added: str
    last: Activation | None

    @property
    def first(self) -> ConvSpec:
        return self.expand or self.filter

    @property
    def end(self) -> ConvSpec:
        """The convolution whose result is the block's but for what stands behind it."""
        return self.project or self.filter

    @property
    def end_number(self) -> int:
        return self.project_number if self.project else self.filter_number

    @property
    def hidden(self) -> int:
        return self.filter.k

    def weights(self) -> tuple[str, str, str]:
        """Of the expansion, the filter and the projection."""
        expand, inner, project = self.expand_number, self.filter_number, self.project_number
        return weight_name(expand), weight_name(inner), weight_name(project)

    def biases(self) -> tuple[str, str, str]:
        return (
            bias_name(self.expand_number, self.expand),
            bias_name(self.filter_number, self.filter),
            bias_name(self.end_number, self.end),
        )


def inverted_stages_of(block: BlockSpec) -> InvertedStages | Refusal:
    """The stages of a block, or why the kernel has none for it."""
    try:
        return _InvertedReading(block).stages()
    except UnfitError as reason:
        return Refusal(str(reason))


class _InvertedReading(Reading):
    """Of a block around a depthwise convolution."""

    def stages(self) -> InvertedStages:
        self._check()
        layers = self.block.layers
        expand, expand_number = None, -1
        if layers[0].spec is not None and is_product(layers[0].spec):
            expand, expand_number = self._convolution("the first 1x1 convolution")
        label = layers[self.at].label if self.at < len(layers) else "nothing"
        found = layers[self.at].spec if self.at < len(layers) else None
        if found is None or not is_depthwise(found):
            raise UnfitError(f"where its depthwise convolution of one channel each should be is {label}")
        behind = layers[self.at + 1].spec if self.at + 1 < len(layers) else None
        project, project_number = None, -1
        if behind is not None and is_product(behind):
            inner, inner_number = self._convolution("the depthwise convolution")
            project, project_number = behind, self.at
            self.at += 1
        elif expand is None:
            raise UnfitError(f"{label} has no 1x1 convolution before or behind it")
        else:
            inner, inner_number = found, self.at
            self.at += 1
        end, end_number = (project, project_number) if project else (inner, inner_number)
        return InvertedStages(
            str(layers[0].inputs[0]),
            expand,
            expand_number,
            inner,
            inner_number,
            project,
            project_number,
            *self._behind(end, end_number),
        )


__all__ = ["InvertedStages", "inverted_stages_of"]
