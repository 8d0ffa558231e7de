"""Single convolutions: our algorithms beside cuDNN and Inductor, checked against PyTorch in float32."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from itertools import islice
from typing import Any

import torch

from waterline.algorithms.gpu import TORCH_TYPES, GpuAlgorithm, GpuImplementation, X, Y
from waterline.algorithms.gpu_registry import GPU_REGISTRY
from waterline.algorithms.library.gpu import LIBRARY_GPU
from waterline.bench.gpu.cases import CUDNN, INDUCTOR, OURS, Call, Case, Variant, largest_share, only_launches, void
from waterline.bench.gpu.inductor import LIMIT_S, NEEDED_S, compiled
from waterline.bench.gpu.place import Place
from waterline.codegen.gpu.kernel import GpuCall
from waterline.errors import InvalidArgument
from waterline.machine.gpu import PRECISION_BYTES
from waterline.spec import ConvSpec

PROTOCOL = "gpu layers"
CHECKED = 8  # images at either end of a batch
# Rounding when a result is stored, and of the operands of a product.
STORE_EPS = {"f32": 2.0**-23, "tf32": 2.0**-23, "f16": 2.0**-10, "bf16": 2.0**-7}
OPERAND_EPS = {"f32": 0.0, "tf32": 2.0**-10, "f16": 0.0, "bf16": 0.0}
SUM_EPS = 2.0**-23
TINY = 1e-7


class LayerCase(Case):
    """A layer without bias on random data. `configs`: of each algorithm, the cheapest first."""

    def __init__(
        self, spec: ConvSpec, precision: str, place: Place, *, configs: int = 2, has_inductor: bool = False
    ) -> None:
        self.spec, self.precision, self.place = spec, precision, place
        self.configs, self.has_inductor = configs, has_inductor
        self.protocol, self.name, self.batch = PROTOCOL, spec.id, spec.n

    @property
    def counted(self) -> tuple[int, float]:
        return self.spec.flops, self.spec.least_bytes / self.spec.elem_bytes * PRECISION_BYTES[self.precision]

    # ---- tensors ------------------------------------------------------------------------------------------------
    @cached_property
    def x(self) -> torch.Tensor:
        """(n, h, w, c)."""
        spec = self.spec
        return drawn(self.place, self.precision, spec.n, spec.h, spec.w, spec.c)

    @cached_property
    def weight(self) -> torch.Tensor:
        """(k, c/g, r, s) in f32, as the precision stores it."""
        spec = self.spec
        return drawn(self.place, self.precision, spec.k, spec.group_c, spec.r, spec.s).float()

    @cached_property
    def y(self) -> torch.Tensor:
        spec = self.spec
        dtype = TORCH_TYPES[self.precision]
        return torch.empty(spec.n, spec.p, spec.q, spec.k, dtype=dtype, device=self.place.torch_device)

    @cached_property
    def truth(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Of images at both ends: the result in f32, and the sum of the sizes of its products."""
        x = ends(self.x).float().permute(0, 3, 1, 2)
        with exact_convolutions():
            return convolve(self.spec, x, self.weight), convolve(self.spec, x.abs(), self.weight.abs())

    def release(self) -> None:
        for name in ("x", "weight", "y", "truth"):
            self.__dict__.pop(name, None)

    # ---- variants -----------------------------------------------------------------------------------------------
    def _ways(self) -> Iterator[tuple[GpuAlgorithm, Any]]:
        gpu = self.place.gpu
        for algorithm in GPU_REGISTRY:
            if algorithm is not LIBRARY_GPU and algorithm.refuse(self.spec, gpu, self.precision) is None:
                for config in islice(algorithm.configs(self.spec, gpu, self.precision), self.configs):
                    yield algorithm, config

    def _made(self, algorithm: GpuAlgorithm, config: Any) -> GpuImplementation:
        return algorithm.implement(self.spec, config, self.place.gpu, self.precision)

    def launches(self) -> Iterator[tuple[GpuCall, str]]:
        for algorithm, config in self._ways():
            yield from only_launches(self._made(algorithm, config).launches, self.precision)

    def variants(self) -> Iterator[Variant]:
        for algorithm, config in self._ways():
            factor = algorithm.tolerance(self.spec, self.precision)
            build = partial(self._ours, algorithm, config)
            yield Variant(OURS, algorithm.name, build, str(config), partial(self._disagreement, factor))
        if self.place.can_time:
            yield Variant(CUDNN, "channels_last", partial(self._theirs, torch.channels_last))
            if self.precision == "f32":  # whose fastest kernels want the other order
                yield Variant(CUDNN, "contiguous", partial(self._theirs, torch.contiguous_format))
            if self.has_inductor:
                yield Variant(
                    INDUCTOR,
                    "max-autotune",
                    self._inductor,
                    limit_s=LIMIT_S,
                    needed_s=NEEDED_S["max-autotune"]["layer"],
                )

    def _ours(self, algorithm: GpuAlgorithm, config: Any) -> Call:
        made = self._made(algorithm, config)
        tensors = {X: self.x, Y: self.y, **algorithm.pack(self.spec, config, self.weight, self.precision)}
        self.y.fill_(float("nan"))
        return launching(made, tensors, self.precision, self.place)

    def _theirs(self, layout: torch.memory_format) -> Call:
        x = self.x.permute(0, 3, 1, 2).contiguous(memory_format=layout)
        weight = self.weight.to(self.x.dtype).contiguous(memory_format=layout)
        allows_tf32 = self.precision == "tf32"

        def call() -> None:
            with torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=allows_tf32):
                void(convolve(self.spec, x, weight))

        return call

    def _inductor(self) -> Call:
        x = self.x.permute(0, 3, 1, 2)
        weight = self.weight.to(self.x.dtype).contiguous(memory_format=torch.channels_last)
        return compiled(Layer(self.spec, weight), [x], "max-autotune")

    def _disagreement(self, factor: float) -> float:
        if bool(self.y.isnan().any()):
            return float("inf")  # a result that was not written
        expected, size = self.truth
        error = (ends(self.y).float().permute(0, 3, 1, 2) - expected).abs()
        depth = self.spec.group_c * self.spec.taps
        return largest_share(error, bound_of(expected, size, depth, self.precision, factor))


class Layer(torch.nn.Module):
    """A convolution as PyTorch has it."""

    def __init__(self, spec: ConvSpec, weight: torch.Tensor) -> None:
        super().__init__()
        self.arguments = (spec.stride, spec.pad[:2], spec.dilation, spec.groups)
        self.register_buffer("weight", weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.conv2d(x, self.weight, None, *self.arguments)


def drawn(place: Place, precision: str, *shape: int, seed: int = 0) -> torch.Tensor:
    """Normally distributed, the same for the same shape and seed."""
    generator = torch.Generator(place.torch_device).manual_seed(2 * sum(shape) + seed)
    return torch.randn(*shape, generator=generator, device=place.torch_device).to(TORCH_TYPES[precision])


def ends(images: torch.Tensor) -> torch.Tensor:
    """The first and the last images, where there are more."""
    return images if images.shape[0] <= 2 * CHECKED else torch.cat([images[:CHECKED], images[-CHECKED:]])


def convolve(spec: ConvSpec, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """By PyTorch; x is (n, c, h, w)."""
    if spec.pad[:2] != spec.pad[2:]:
        raise InvalidArgument(f"{spec.id}: PyTorch pads both sides alike")
    return torch.nn.functional.conv2d(x, weight, None, spec.stride, spec.pad[:2], spec.dilation, spec.groups)


def exact_convolutions() -> Any:
    """A context in which PyTorch's products in float32 are not rounded, and nothing is chosen by measurement."""
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, allow_tf32=False)


def bound_of(
    expected: torch.Tensor, size: torch.Tensor, depth: int, precision: str, factor: float = 1.0
) -> torch.Tensor:
    """What rounding explains: of the result when it is stored, of operands, and of `depth` sums in f32."""
    products = factor * depth * SUM_EPS + 2 * OPERAND_EPS[precision]
    return STORE_EPS[precision] * expected.abs() + products * size + TINY


def launching(made: GpuImplementation, tensors: dict[str, torch.Tensor], precision: str, place: Place) -> Call:
    """A call of all launches, with workspaces of their own."""
    for each in made.workspaces:
        dtype = TORCH_TYPES[each.precision or precision]
        tensors[each.name] = torch.empty(each.elems, dtype=dtype, device=place.torch_device)

    def call() -> None:
        for launch in made.launches:
            launch.run(tensors)

    return call


def by_batch(specs: Sequence[ConvSpec], batches: Sequence[int]) -> list[ConvSpec]:
    """Every layer with the first batch, then every layer with the next."""
    return [spec.with_batch(batch) for batch in batches for spec in specs]


__all__ = ["LayerCase", "bound_of", "by_batch", "convolve", "drawn", "exact_convolutions", "launching"]
__all__ += ["OPERAND_EPS", "PROTOCOL", "STORE_EPS", "SUM_EPS", "TINY"]
