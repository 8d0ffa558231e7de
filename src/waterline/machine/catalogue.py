"""Described machines: what tests plan and emit for, wherever they run. Sizes are from the vendors' manuals.

The names say which kind of processor is meant; no rate is measured, so plans for these machines never change.
"""

from __future__ import annotations

from waterline.machine.description import ISAS, Machine

KIB, MIB = 1 << 10, 1 << 20

_AVX = ISAS["avx"][2]
_AVX2 = ISAS["avx2"][2]
_SKYLAKE = _AVX2 | {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd"}
_ICE_LAKE = _SKYLAKE | {
    "gfni",
    "vaes",
    "vpclmulqdq",
    "avx512ifma",
    "avx512vbmi",
    "avx512vbmi2",
    "avx512vnni",
    "avx512bitalg",
    "avx512vpopcntdq",
}
_SAPPHIRE_RAPIDS = _ICE_LAKE | {"avxvnni", "avx512bf16", "avx512fp16", "amx-tile", "amx-bf16", "amx-int8"}
_ARMV8 = frozenset({"neon", "fp-armv8"})

CATALOGUE: tuple[Machine, ...] = (
    Machine(
        name="server with AVX-512 and AMX, 2 MB L2",
        arch="x86_64",
        features=_SAPPHIRE_RAPIDS,
        l1d_bytes=48 * KIB,
        l2_bytes=2 * MIB,
        l3_bytes=105 * MIB,
        l3_cores=56,
        cores=56,
        clock_hz=2.6e9,
    ),
    Machine(
        name="server with AVX-512, 1 MB L2",
        arch="x86_64",
        features=_SKYLAKE,
        l1d_bytes=32 * KIB,
        l2_bytes=1 * MIB,
        l3_bytes=38 * MIB + 512 * KIB,
        l3_cores=28,
        cores=28,
        clock_hz=2.3e9,
    ),
    Machine(
        name="desktop with AVX-512 in two halves, 1 MB L2",
        arch="x86_64",
        features=_ICE_LAKE | {"avx512bf16"},
        l1d_bytes=32 * KIB,
        l2_bytes=1 * MIB,
        l3_bytes=32 * MIB,
        l3_cores=8,
        cores=8,
        clock_hz=4.7e9,
        fma_ports=1,
    ),
    Machine(
        name="server with full AVX-512, 48 KB L1, 1 MB L2",
        arch="x86_64",
        features=_ICE_LAKE | {"avxvnni", "avx512bf16"},
        l1d_bytes=48 * KIB,
        l2_bytes=1 * MIB,
        l3_bytes=32 * MIB,
        l3_cores=8,
        cores=8,
        clock_hz=4.0e9,
    ),
    Machine(
        name="desktop with AVX2, 256 KB L2",
        arch="x86_64",
        features=_AVX2,
        l1d_bytes=32 * KIB,
        l2_bytes=256 * KIB,
        l3_bytes=8 * MIB,
        l3_cores=4,
        cores=4,
        clock_hz=3.6e9,
    ),
    Machine(
        name="desktop with AVX2, 512 KB L2",
        arch="x86_64",
        features=_AVX2,
        l1d_bytes=32 * KIB,
        l2_bytes=512 * KIB,
        l3_bytes=32 * MIB,
        l3_cores=8,
        cores=8,
        clock_hz=3.8e9,
    ),
    Machine(
        name="desktop with AVX, no fused multiply-add",
        arch="x86_64",
        features=_AVX,
        l1d_bytes=32 * KIB,
        l2_bytes=256 * KIB,
        l3_bytes=8 * MIB,
        l3_cores=4,
        cores=4,
        clock_hz=3.4e9,
    ),
    Machine(
        name="any x86-64: SSE2 only",
        arch="x86_64",
        features=ISAS["sse2"][2],
        l1d_bytes=32 * KIB,
        l2_bytes=256 * KIB,
        l3_bytes=4 * MIB,
        l3_cores=2,
        cores=2,
        clock_hz=2.4e9,
    ),
    Machine(
        name="server with NEON",
        arch="aarch64",
        features=_ARMV8 | {"fullfp16", "dotprod", "i8mm", "bf16"},
        l1d_bytes=64 * KIB,
        l2_bytes=1 * MIB,
        l3_bytes=32 * MIB,
        l3_cores=64,
        cores=64,
        clock_hz=2.6e9,
        fma_ports=4,
    ),
    Machine(
        name="phone with NEON, no L3",
        arch="aarch64",
        features=_ARMV8,
        l1d_bytes=32 * KIB,
        l2_bytes=128 * KIB,
        l3_bytes=0,
        cores=4,
        clock_hz=1.8e9,
        fma_ports=1,
    ),
)
