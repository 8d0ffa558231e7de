"""`Gpu`: what the planner and the Triton kernels may know about a graphics processor.

As for `Machine`, decisions follow from sizes and rates, never from the name.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from waterline.errors import InvalidArgument

# Operations that one streaming multiprocessor starts each cycle, by the precision of the products. f32 is without the
# matrix unit. (NVIDIA, whitepapers of the A100 and the H100: dense rates.)
_RATES = {
    8: {"f32": 128, "tf32": 1024, "f16": 2048, "bf16": 2048},
    9: {"f32": 256, "tf32": 2048, "f16": 4096, "bf16": 4096},
}
# Estimates: what lies between the ends of two kernels that follow each other in a CUDA graph, beside their work; what
# the second-level cache moves against memory. (An H100's: 5.5 TB/s of reads against 3.35.)
LAUNCH_SECONDS = 2e-6
CACHE_SPEED = 1.6
PRECISIONS = ("f32", "tf32", "f16", "bf16")
# f16 and bf16 are multiplied as they are and summed in f32; tf32 rounds f32 operands to 10 bits of mantissa.
PRECISION_BYTES = {"f32": 4, "tf32": 4, "f16": 2, "bf16": 2}


@dataclass(frozen=True)
class Gpu:
    """A graphics processor.

    Attributes:
        name: for people only.
        capability: compute capability: (9, 0) is sm_90, which has asynchronous matrix products and bulk tensor copies.
        multiprocessors: that run thread blocks.
        shared_bytes: of memory that one block may have, at most. registers: 32-bit ones of a multiprocessor.
        l2_bytes: of all multiprocessors together.
        clock_hz: nominal, for estimates.
        memory_bytes_per_s: measured, or of the data sheet.
        measured_flops_per_s: (precision, operations a second); empty before calibration.
        provenance: "estimated", or "measured <date> by waterline <version>".
    """

    name: str
    capability: tuple[int, int]
    multiprocessors: int
    shared_bytes: int
    l2_bytes: int
    clock_hz: float
    memory_bytes_per_s: float
    registers: int = 65536
    measured_flops_per_s: tuple[tuple[str, float], ...] = ()
    provenance: str = "estimated"

    def __post_init__(self) -> None:
        if self.capability[0] < min(_RATES):
            raise InvalidArgument(
                f"{self.name} has compute capability {self.capability[0]}.{self.capability[1]}",
                f"accepted: {min(_RATES)}.0 and later",
            )

    @property
    def has_bulk_copies(self) -> bool:
        """Tensor descriptors are served by hardware: what lies outside a tensor reads as zero."""
        return self.capability[0] >= 9

    def peak(self, precision: str) -> float:
        """Operations a second: measured, or what the clock allows."""
        measured = dict(self.measured_flops_per_s)
        if precision in measured:
            return measured[precision]
        rates = _RATES[max(major for major in _RATES if major <= self.capability[0])]
        return self.multiprocessors * self.clock_hz * rates[precision]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


A100 = Gpu("A100", (8, 0), 108, 163 << 10, 40 << 20, 1.41e9, 1.55e12)
H100 = Gpu("H100", (9, 0), 132, 227 << 10, 50 << 20, 1.755e9, 3.35e12)
H200 = Gpu("H200", (9, 0), 132, 227 << 10, 50 << 20, 1.755e9, 4.8e12)
GPU_CATALOGUE = (A100, H100, H200)

__all__ = [
    "A100",
    "CACHE_SPEED",
    "GPU_CATALOGUE",
    "H100",
    "H200",
    "LAUNCH_SECONDS",
    "PRECISIONS",
    "PRECISION_BYTES",
    "Gpu",
]
