"""Grouped 3x3 layers of narrow groups, which memory bounds: the forward pass and both gradients, beside cuDNN's."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cached_property

import torch

from waterline.algorithms.gpu import TORCH_TYPES, GpuImplementation, X
from waterline.algorithms.grouped import gpu_gradients
from waterline.algorithms.grouped.gpu_gradients import DW, DX, DY, WEIGHT
from waterline.bench.gpu.cases import CUDNN, OURS, Call, Case, Variant, largest_share, only_launches, void
from waterline.bench.gpu.convolutions import (
    STORE_EPS,
    TINY,
    LayerCase,
    bound_of,
    by_batch,
    drawn,
    exact_convolutions,
    launching,
)
from waterline.bench.gpu.dense import small
from waterline.bench.gpu.place import Place
from waterline.bench.records import Record
from waterline.codegen.gpu.kernel import GpuCall
from waterline.errors import Refused
from waterline.machine.gpu import PRECISION_BYTES, Gpu
from waterline.spec import ConvSpec

PROTOCOL = "gpu grouped"
BATCHES = (64, 256, 1)
FORWARD, DATA, WEIGHTS = "forward", "data gradient", "weight gradient"
# Of sums over all pixels of a batch: errors of f32 sums are far below, and wrong sums are far above.
WEIGHT_EPS = 2.0**-9

_LAYERS = [  # (channels, size, group width, stride)
    (128, 56, 8, 1),
    (256, 28, 8, 1),
    (512, 14, 8, 1),
    (64, 112, 8, 1),
    (128, 56, 16, 1),
    (128, 56, 32, 1),
    (128, 56, 8, 2),
    (256, 28, 16, 1),
    (256, 28, 32, 1),
]

Make = Callable[[ConvSpec, Gpu, str], GpuImplementation]


class GroupedLayer(LayerCase):
    """The forward pass: with packed weights, as in inference."""

    def __init__(self, spec: ConvSpec, precision: str, place: Place) -> None:
        super().__init__(spec, precision, place)
        self.protocol = PROTOCOL

    @property
    def key(self) -> str:
        return f"{super().key}, {FORWARD}"

    @property
    def names(self) -> Record:
        return {**super().names, "data": FORWARD}


class Gradient(Case):
    """One of the two gradients of a layer."""

    def __init__(self, spec: ConvSpec, precision: str, place: Place, which: str) -> None:
        self.spec, self.precision, self.place, self.which = spec, precision, place, which
        self.protocol, self.name, self.batch = PROTOCOL, spec.id, spec.n

    @property
    def key(self) -> str:
        return f"{super().key}, {self.which}"

    @property
    def names(self) -> Record:
        return {**super().names, "data": self.which}

    @property
    def counted(self) -> tuple[int, float]:
        # One of x, y and the weight is written, the others are read: as in the forward pass.
        return self.spec.flops, self.spec.least_bytes / self.spec.elem_bytes * PRECISION_BYTES[self.precision]

    # ---- tensors ------------------------------------------------------------------------------------------------
    @cached_property
    def tensors(self) -> dict[str, torch.Tensor]:
        """By the names of launches; images (n, h, w, c)."""
        spec, place = self.spec, self.place
        dtype = TORCH_TYPES[self.precision]
        image, result = (spec.n, spec.h, spec.w, spec.c), (spec.n, spec.p, spec.q, spec.k)
        weight = (spec.k, spec.group_c, spec.r, spec.s)
        return {
            X: drawn(place, self.precision, *image),
            DY: drawn(place, self.precision, *result, seed=1),
            WEIGHT: drawn(place, self.precision, *weight),
            DX: torch.empty(image, dtype=dtype, device=place.torch_device),
            DW: torch.empty(weight, dtype=dtype, device=place.torch_device),
        }

    @property
    def result(self) -> torch.Tensor:
        """As PyTorch has it."""
        return self.tensors[DX].permute(0, 3, 1, 2) if self.which == DATA else self.tensors[DW]

    @cached_property
    def truth(self) -> tuple[torch.Tensor, torch.Tensor]:
        """In f32, and the sum of the sizes of its products."""
        given = [self.tensors[name].float() for name in (DY, X, WEIGHT)]
        with exact_convolutions():
            return self._by_torch(*given), self._by_torch(*(each.abs() for each in given))

    def _by_torch(self, dy: torch.Tensor, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        spec = self.spec
        asked = [self.which == DATA, self.which == WEIGHTS, False]
        found = torch.ops.aten.convolution_backward(
            dy.permute(0, 3, 1, 2),
            x.permute(0, 3, 1, 2),
            weight,
            None,
            list(spec.stride),
            list(spec.pad[:2]),
            list(spec.dilation),
            False,
            [0, 0],
            spec.groups,
            asked,
        )
        made: torch.Tensor = found[0 if self.which == DATA else 1]
        return made

    def release(self) -> None:
        for name in ("tensors", "truth"):
            self.__dict__.pop(name, None)

    # ---- variants -----------------------------------------------------------------------------------------------
    def _made(self) -> GpuImplementation:
        make: Make = gpu_gradients.data_gradient if self.which == DATA else gpu_gradients.weight_gradient
        return make(self.spec, self.place.gpu, self.precision)

    def launches(self) -> Iterator[tuple[GpuCall, str]]:
        try:
            yield from only_launches(self._made().launches, self.precision)
        except Refused:
            return  # which the variant says

    def variants(self) -> Iterator[Variant]:
        yield Variant(OURS, "grouped", self._ours, check=self._disagreement)
        if self.place.can_time:
            yield Variant(CUDNN, "channels_last", self._theirs)

    def _ours(self) -> Call:
        made = self._made()
        self.result.fill_(float("nan"))
        return launching(made, dict(self.tensors), self.precision, self.place)

    def _theirs(self) -> Call:
        dy, x = self.tensors[DY], self.tensors[X]
        weight = self.tensors[WEIGHT].contiguous(memory_format=torch.channels_last)

        def call() -> None:
            with torch.backends.cudnn.flags(enabled=True, benchmark=True):
                void(self._by_torch(dy, x, weight))

        return call

    def _disagreement(self) -> float:
        expected, size = self.truth
        error = (self.result.float() - expected).abs()
        if self.which == DATA:
            depth = self.spec.k // self.spec.groups * self.spec.taps
            return largest_share(error, bound_of(expected, size, depth, self.precision))
        typical = math.sqrt(float(expected.square().mean()))
        return largest_share(error, STORE_EPS[self.precision] * expected.abs() + WEIGHT_EPS * typical + TINY)


def cases(place: Place) -> list[Case]:
    precision = place.precision("bf16")
    found: list[Case] = []
    tiny = ConvSpec(1, 16, 5, 4, 16, 3, 3, pad=(1, 1, 1, 1), groups=2)
    specs = [tiny] if place.is_interpreted else small(place, layers())
    for spec in by_batch(specs, place.batches_of(BATCHES)):
        found.append(GroupedLayer(spec, precision, place))
        found += [Gradient(spec, precision, place, which) for which in (DATA, WEIGHTS)]
    return found


def layers() -> list[ConvSpec]:
    return [
        ConvSpec(1, c, size, size, c, 3, 3, stride=(stride, stride), pad=(1, 1, 1, 1), groups=c // width)
        for c, size, width, stride in _LAYERS
    ]


__all__ = ["DATA", "FORWARD", "WEIGHTS", "Gradient", "GroupedLayer", "cases"]
