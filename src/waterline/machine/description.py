"""`Machine`: what the planner and the code generators may know about a processor.

A machine is data: it can be written down for a processor that is not here (`waterline.machine.catalogue`), and
`waterline.machine.detect` writes down the one that is. Decisions follow from features, sizes and rates, never from
the name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from waterline.errors import InvalidArgument

ELEM_BYTES = {"f64": 8, "f32": 4, "i32": 4, "bf16": 2, "f16": 2, "i16": 2, "i8": 1}

# What 512-bit code generation relies on. A processor with less of AVX-512 than this is used as an AVX2 one.
AVX512 = frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl"})

_SSE2 = frozenset({"sse", "sse2"})
_AVX = _SSE2 | {"sse3", "ssse3", "sse4.1", "sse4.2", "popcnt", "avx"}
_AVX2 = _AVX | {"avx2", "fma", "f16c", "bmi", "bmi2", "lzcnt", "movbe"}
_AVX512 = _AVX2 | {"avxvnni", "gfni", "vaes", "vpclmulqdq"} | AVX512
_AVX512 |= {"avx512" + name for name in ("cd", "ifma", "vbmi", "vbmi2", "vnni", "bitalg", "vpopcntdq", "bf16", "fp16")}
_NEON = frozenset({"neon", "fp-armv8"})

# cap -> (architecture, what a machine needs to be capped to it, the features that stay)
ISAS: dict[str, tuple[str, frozenset[str], frozenset[str]]] = {
    "sse2": ("x86_64", frozenset({"sse2"}), _SSE2),
    "avx": ("x86_64", frozenset({"avx"}), _AVX),
    "avx2": ("x86_64", frozenset({"avx2", "fma"}), _AVX2),
    "avx512": ("x86_64", AVX512, _AVX512),
    "neon": ("aarch64", frozenset({"neon"}), _NEON),
}

# The names LLVM gives the platforms; only the object format and the calling convention follow from them.
_TRIPLES = {
    ("x86_64", "linux"): "x86_64-unknown-linux-gnu",
    ("x86_64", "macos"): "x86_64-apple-darwin",
    ("x86_64", "windows"): "x86_64-pc-windows-msvc",
    ("aarch64", "linux"): "aarch64-unknown-linux-gnu",
    ("aarch64", "macos"): "arm64-apple-darwin",
    ("aarch64", "windows"): "aarch64-pc-windows-msvc",
}


@dataclass(frozen=True)
class Bandwidth:
    """Bytes a second that vector loads get from each level. `dram_all` is all cores reading at once."""

    l2: float
    l3: float
    dram: float
    dram_all: float

    @classmethod
    def estimated(cls, clock_hz: float) -> Bandwidth:
        """Middling values of today's processors: bytes a cycle of one core, and of four such cores at the memory."""
        return cls(l2=32 * clock_hz, l3=10 * clock_hz, dram=4 * clock_hz, dram_all=16 * clock_hz)


# What one process can count on of a last-level cache that is larger: others use it too. (On a server that states 480 MB
# reads fell to the memory's rate between 64 and 128 MB.)
MOST_L3_SHARE_BYTES = 64 << 20


@dataclass(frozen=True)
class Machine:
    """A processor, as far as one process may use it.

    Attributes:
        name: for people only.
        arch: "x86_64" or "aarch64".
        system: "linux", "macos" or "windows": decides the object format.
        features: instruction sets in LLVM's names.
        l1d_bytes, l2_bytes: of one core. l3_bytes: shared by `l3_cores` cores; 0 where there is none.
        cores: physical cores that the process may use.
        clock_hz: nominal, for estimates only.
        fma_ports: multiply-adds started each cycle.
        fma_latency: cycles until an accumulator can be added to again.
        peak_flops_per_s: of one core in f32, measured; None before calibration.
        peak_all_flops_per_s: the same of all `cores` at once.
        bandwidth: measured; None before calibration.
        provenance: where the rates come from, "estimated" or "measured <date> by waterline <version>", and what
            detection had to assume.
        weights_level: where weights come from that a core's own cache does not hold; see `for_weights`.
    """

    name: str
    arch: str
    features: frozenset[str]
    system: str = "linux"
    l1d_bytes: int = 32 << 10
    l2_bytes: int = 512 << 10
    l3_bytes: int = 8 << 20
    l3_cores: int = 1
    cache_line_bytes: int = 64
    cores: int = 1
    clock_hz: float = 3.0e9
    fma_ports: int = 2
    fma_latency: int = 4
    peak_flops_per_s: float | None = None
    peak_all_flops_per_s: float | None = None
    bandwidth: Bandwidth | None = None
    provenance: str = "estimated"
    weights_level: str = "dram"

    def __post_init__(self) -> None:
        if (self.arch, self.system) not in _TRIPLES:
            known = ", ".join(f"{arch}/{system}" for arch, system in _TRIPLES)
            raise InvalidArgument(f"a machine of {self.arch}/{self.system} is not known", f"known: {known}")
        base = "sse2" if self.arch == "x86_64" else "neon"
        if base not in self.features:
            raise InvalidArgument(f"{self.name}: an {self.arch} processor without {base} is not supported")

    @property
    def l3_share_bytes(self) -> int:
        """What a network can count on of the last-level cache."""
        return min(self.l3_bytes, MOST_L3_SHARE_BYTES)

    def level_of(self, size_bytes: float, cores: int = 1) -> str:
        """Where data are that one step writes and the next reads: half of a cache is for what is used beside them."""
        if size_bytes <= cores * self.l2_bytes // 2:
            return "l2"
        return "l3" if size_bytes <= self.l3_share_bytes // 2 else "dram"

    def for_weights(self, size_bytes: int) -> Machine:
        """This machine as a network finds it that has so many bytes of weights.

        They stay in the last-level cache from one inference to the next, if four times as many would fit: activations
        are there too, and fast algorithms store a filter in up to four times its size.
        """
        share = min(self.l3_bytes // 2, MOST_L3_SHARE_BYTES)
        return replace(self, weights_level="l3" if 4 * size_bytes <= share else "dram")

    # ---- vectors ------------------------------------------------------------------------------------------------
    @property
    def has_avx512(self) -> bool:
        return self.features >= AVX512 and "fma" in self.features

    @property
    def has_fma(self) -> bool:
        return self.arch == "aarch64" or "fma" in self.features

    @property
    def isa(self) -> str:
        """The cap in `ISAS` that changes the width of vectors least: "avx512", "avx2", "avx", "sse2" or "neon"."""
        if self.arch == "aarch64":
            return "neon"
        if self.has_avx512:
            return "avx512"
        if "avx2" in self.features and self.has_fma:
            return "avx2"
        return "avx" if "avx" in self.features else "sse2"

    @property
    def vector_bytes(self) -> int:
        return {"avx512": 64, "avx2": 32, "avx": 32}.get(self.isa, 16)

    @property
    def vector_registers(self) -> int:
        return 32 if self.isa in ("avx512", "neon") else 16

    @property
    def general_registers(self) -> int:
        return 32 if self.arch == "aarch64" else 16

    def lanes(self, dtype: str = "f32") -> int:
        """Elements of one vector register."""
        return self.vector_bytes // ELEM_BYTES[dtype]

    # ---- rates --------------------------------------------------------------------------------------------------
    @property
    def multiply_adds_per_cycle(self) -> int:
        """Vectors: each port that fuses takes one; without fusing, a multiplication and an addition start together."""
        return self.fma_ports if self.has_fma else 1

    def estimated_peak(self) -> float:
        """f32 operations a second of one core, from features and the nominal clock."""
        return self.clock_hz * self.lanes() * 2 * self.multiply_adds_per_cycle

    def peak(self, threads: int = 1) -> float:
        """f32 operations a second of `threads` cores: measured where there is a measurement, else estimated.

        Between one core and all of them the clock is taken to fall linearly.
        """
        threads = max(1, min(threads, self.cores))
        one = self.peak_flops_per_s or self.estimated_peak()
        if threads == 1 or self.peak_all_flops_per_s is None:
            return one * threads
        each = self.peak_all_flops_per_s / self.cores
        return threads * (one + (each - one) * (threads - 1) / (self.cores - 1))

    def bytes_per_s(self, level: str, threads: int = 1) -> float:
        """Read bandwidth of `level` ("l2", "l3" or "dram") with `threads` cores: measured, else estimated."""
        threads = max(1, min(threads, self.cores))
        rates = self.bandwidth or Bandwidth.estimated(self.clock_hz)
        one: float = getattr(rates, level)
        if level == "dram":
            return one if threads == 1 else min(one * threads, max(rates.dram_all, one))
        return one * threads

    # ---- other machines -----------------------------------------------------------------------------------------
    def restricted(self, isa: str) -> Machine:
        """The same machine with no more than `isa`; its rates are unknown again, unless nothing was taken away.

        Raises:
            InvalidArgument: `isa` is unknown, or the machine does not have it.
        """
        if isa not in ISAS:
            raise InvalidArgument(f"instruction set {isa!r} is not known", f"accepted: {', '.join(ISAS)}")
        arch, needed, kept = ISAS[isa]
        if arch != self.arch or not needed <= self.features:
            missing = ", ".join(sorted(needed - self.features))
            raise InvalidArgument(
                f"instruction set {isa!r} was asked for, but this machine ({self.arch}) lacks {missing}",
                f"it has {self.isa!r}",
            )
        if self.features <= kept:
            return self
        return replace(
            self,
            features=self.features & kept,
            peak_flops_per_s=None,
            peak_all_flops_per_s=None,
            bandwidth=None,
            provenance="estimated",
        )

    def target(self) -> tuple[str, str, str]:
        """(triple, processor, features) for LLVM. The processor is always the generic one: features decide alone."""
        cpu = "x86-64" if self.arch == "x86_64" else "generic"
        return _TRIPLES[self.arch, self.system], cpu, ",".join(f"+{name}" for name in sorted(self.features))

    # ---- JSON ---------------------------------------------------------------------------------------------------
    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values["features"] = sorted(self.features)
        values["bandwidth"] = None if self.bandwidth is None else dict(vars(self.bandwidth))
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Machine:
        """Read what `to_dict` wrote.

        Raises:
            InvalidArgument: a key is unknown or missing.
        """
        values = dict(values)
        try:
            bandwidth = values.pop("bandwidth", None)
            return cls(
                features=frozenset(values.pop("features")),
                bandwidth=None if bandwidth is None else Bandwidth(**bandwidth),
                **values,
            )
        except (KeyError, TypeError) as error:
            raise InvalidArgument(f"not the description of a machine: {error}") from error
