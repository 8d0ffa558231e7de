"""What a part of the suite gives: cases, each with several ways to compute the same."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from waterline.bench.gpu.place import Place
from waterline.bench.records import Record
from waterline.codegen.gpu.kernel import GpuCall, GpuLaunch

OURS, CUDNN, TORCH, INDUCTOR = "waterline", "cudnn", "torch", "inductor"

Call = Callable[[], None]


@dataclass(frozen=True)
class Variant:
    """One way to compute a case.

    Attributes:
        engine: "waterline" or whose it is otherwise. algorithm, config: of ours.
        build: makes the call; memory is taken and weights are packed here.
        check: after a call: its largest error as a share of what rounding explains. None: it is what ours is compared
            with.
        details: of a record, once the call is made. limit_s: it hangs if it takes longer until it has run once.
        needed_s: where less time is left it is left out.
    """

    engine: str
    algorithm: str
    build: Callable[[], Call]
    config: str = ""
    check: Callable[[], float] | None = None
    details: Callable[[], Record] = dict
    limit_s: float = 90.0
    needed_s: float = 0.0

    @property
    def name(self) -> str:
        return " ".join(part for part in (self.engine, self.algorithm, self.config) if part)

    @property
    def labels(self) -> Record:
        return {"engine": self.engine, "algorithm": self.algorithm, "config": self.config}


class Case:
    """Tensors, and the variants that work on them. Nothing is allocated before `variants` are built.

    Attributes:
        protocol, name: of records. needed_s: where less time is left it is not begun.
    """

    protocol: str
    name: str
    precision: str
    batch: int
    needed_s: float = 0.0

    @property
    def counted(self) -> tuple[int, float]:
        """Operations of the direct algorithm, and the bytes of what enters and leaves, each moved once."""
        raise NotImplementedError

    @property
    def key(self) -> str:
        """Of one run, unique."""
        return f"{self.protocol}: {self.name}, batch {self.batch}, {self.precision}"

    @property
    def names(self) -> Record:
        """What tells it from others in records, whatever may be wrong with it."""
        return {"protocol": self.protocol, "model": self.name, "batch": self.batch, "dtype": self.precision}

    def launches(self) -> Iterable[tuple[GpuCall, str]]:
        """Those of our variants, each with the precision of its tensors: compiled ahead. What cannot be made is left
        out, and said by the variant itself."""
        raise NotImplementedError

    def variants(self) -> Iterable[Variant]:
        raise NotImplementedError

    def labels(self, place: Place) -> Record:
        """Of each of its records."""
        peak, rate = place.gpu.peak(self.precision), place.gpu.memory_bytes_per_s
        flops, moved_bytes = self.counted
        return {
            **self.names,
            "flops": flops,
            "moved_bytes": moved_bytes,
            "bound_ms": 1e3 * max(flops / peak, moved_bytes / rate),
            "peak_flops_per_s": peak,
            "memory_bytes_per_s": rate,
        }

    def release(self) -> None:
        """Lets tensors go."""


@dataclass
class Times:
    """Seconds of one call, in rounds."""

    warm_calls: int = 1
    warm: list[float] = field(default_factory=list)
    cold: list[float] = field(default_factory=list)

    def record(self, case: Case, rounded: Callable[[float], float]) -> dict[str, Any]:
        """As a record has them."""
        warm, cold = statistics.median(self.warm), statistics.median(self.cold)
        flops, moved_bytes = case.counted
        return {
            "warm_ms": 1e3 * warm,
            "cold_ms": 1e3 * cold,
            "warm_calls": self.warm_calls,
            "effective_flops_per_s": flops / warm,
            "effective_bytes_per_s": moved_bytes / cold,
            "warm_samples": [rounded(1e3 * value) for value in self.warm],
            "cold_samples": [rounded(1e3 * value) for value in self.cold],
        }


def only_launches(calls: Iterable[GpuCall], precision: str) -> list[tuple[GpuCall, str]]:
    """Those that Triton compiles."""
    return [(call, precision) for call in calls if isinstance(call, GpuLaunch)]


def void(_: torch.Tensor | Sequence[torch.Tensor]) -> None:
    """A result that nobody reads."""


def largest_share(error: torch.Tensor, bound: torch.Tensor) -> float:
    """The largest error as a share of its bound; infinite for what is no number."""
    return float((error / bound).nan_to_num(nan=float("inf")).max()) if error.numel() else 0.0


__all__ = ["CUDNN", "INDUCTOR", "OURS", "TORCH", "Call", "Case", "Times", "Variant", "largest_share", "only_launches"]
__all__ += ["void"]
