"""What macOS says about the processor: the text of `sysctl hw machdep.cpu`.

Source: Apple's "Determining instruction set characteristics" and "Determining system capabilities".
"""

from __future__ import annotations

from waterline.machine.description import Machine
from waterline.machine.linux import USEFUL

_X86 = {
    "SSE3": "sse3",
    "SSSE3": "ssse3",
    "SSE4.1": "sse4.1",
    "SSE4.2": "sse4.2",
    "POPCNT": "popcnt",
    "MOVBE": "movbe",
    "F16C": "f16c",
    "FMA": "fma",
    "AVX1.0": "avx",
    "AVX2": "avx2",
    "BMI1": "bmi",
    "BMI2": "bmi2",
    "LZCNT": "lzcnt",
}
_ARM = {"FEAT_FP16": "fullfp16", "FEAT_DotProd": "dotprod", "FEAT_I8MM": "i8mm", "FEAT_BF16": "bf16"}


def parse_sysctl(text: str) -> dict[str, str]:
    """`key: value` lines as a dictionary."""
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in text.splitlines()) if key}


def features_of(arch: str, sysctl: dict[str, str]) -> frozenset[str]:
    """LLVM's names of the features that the system reports as usable."""
    if arch == "aarch64":
        return frozenset(
            {"neon", "fp-armv8"} | {ours for key, ours in _ARM.items() if sysctl.get(f"hw.optional.arm.{key}") == "1"}
        )
    words = " ".join(
        sysctl.get(f"machdep.cpu.{key}", "") for key in ("features", "leaf7_features", "extfeatures")
    ).split()
    found = {"sse", "sse2"} | {_X86[word] for word in words if word in _X86}
    # AVX-512 state is enabled on first use, and the system says so here, one key an extension.
    found |= {
        name
        for key, value in sysctl.items()
        if value == "1" and (name := key.removeprefix("hw.optional.")).startswith("avx512")
    }
    return frozenset(found) & USEFUL[arch]


def describe(arch: str, sysctl: dict[str, str]) -> Machine:
    """The machine. On Apple's own processors the caches are those of the fast cores, shared within a cluster."""
    level = "hw.perflevel0." if "hw.perflevel0.physicalcpu" in sysctl else "hw."

    def number(key: str, default: int) -> int:
        text = sysctl.get(key, "")
        return int(text) if text.isdigit() and int(text) else default

    cores = number("hw.physicalcpu", 1)
    return Machine(
        name=sysctl.get("machdep.cpu.brand_string", "macOS"),
        arch=arch,
        system="macos",
        features=features_of(arch, sysctl),
        l1d_bytes=number(level + "l1dcachesize", 32 << 10),
        l2_bytes=number(level + "l2cachesize", 512 << 10) // number(level + "cpusperl2", 1),
        l3_bytes=number("hw.l3cachesize", 0),
        l3_cores=cores,
        cache_line_bytes=number("hw.cachelinesize", 64),
        cores=cores,
        clock_hz=float(number("hw.cpufrequency_max", 3_000_000_000)),
        fma_ports=4 if arch == "aarch64" else 2,
    )
