"""`detect`: the machine under this process. Only `waterline.api` calls it; everything below gets a `Machine`.

Feature flags decide, and only those that the operating system has enabled: hypervisors report model names of other
processors and hide what the model would have. On x86 a feature counts when both the kernel and the CPUID instruction
(asked through LLVM) report it: LLVM alone reports features that the kernel has switched off (`clearcpuid=`, `shstk`),
and a container or an emulator may show the `cpuinfo` of another processor. Tile registers (AMX) appear in the features,
but the process still has to ask the kernel for their use.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

from llvmlite import binding

from waterline.errors import InvalidArgument
from waterline.machine import linux, macos
from waterline.machine.description import Machine

_ARCHS = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64"}


def detect(isa_cap: str | None = None) -> Machine:
    """Describe this machine, as far as this process may use it.

    Args:
        isa_cap: use no more than this instruction set (a key of `ISAS`).

    Raises:
        InvalidArgument: the processor's architecture is not supported, or the machine lacks `isa_cap`.
    """
    arch = _ARCHS.get(platform.machine().lower())
    if arch is None:
        raise InvalidArgument(f"processor architecture {platform.machine()!r} is not supported", "x86-64 or AArch64 is")
    reported = frozenset(name for name, present in binding.get_host_cpu_features().items() if present)
    if sys.platform == "linux":
        machine = from_linux(Path("/"), arch, frozenset(os.sched_getaffinity(0)), reported)
    elif sys.platform == "darwin":
        text = subprocess.run(["/usr/sbin/sysctl", "hw", "machdep.cpu"], capture_output=True, text=True, check=False)
        machine = macos.describe(arch, macos.parse_sysctl(text.stdout))
    else:
        machine = from_features(arch, reported, os.cpu_count() or 1)
    return machine if isa_cap is None else machine.restricted(isa_cap)


def from_linux(root: Path, arch: str, affinity: frozenset[int], reported: frozenset[str]) -> Machine:
    """The machine that the files below `root` describe.

    Args:
        root: where `proc` and `sys` are.
        affinity: hardware threads that the process may run on.
        reported: LLVM's features of the host.
    """
    assumed = []
    cpus = linux.usable_cpus(root, affinity)
    name, flags, clock = linux.parse_cpuinfo(linux.read_text(root / "proc/cpuinfo") or "")
    if flags:
        features = linux.features_of(arch, flags)
        if arch == "x86_64" and reported:  # on AArch64 LLVM reads the same file, and knows fewer of its words
            features &= reported
    else:
        features = reported & linux.USEFUL[arch]
        assumed.append("features from CPUID alone")
    caches = linux.read_caches(root, cpus)
    default = Machine("default", arch, frozenset({"sse2", "neon"}))
    for level in ("l1d", "l2", "l3"):
        if getattr(caches, level) is None:
            assumed.append(f"{level.upper()} of {getattr(default, level + '_bytes') >> 10} KiB")
    return Machine(
        name=name or platform.machine(),
        arch=arch,
        features=features,
        l1d_bytes=default.l1d_bytes if caches.l1d is None else caches.l1d,
        l2_bytes=default.l2_bytes if caches.l2 is None else caches.l2,
        l3_bytes=default.l3_bytes if caches.l3 is None else caches.l3,
        l3_cores=caches.l3_cores,
        cache_line_bytes=caches.line or default.cache_line_bytes,
        cores=linux.cores_allowed(root, cpus),
        clock_hz=linux.max_clock_hz(root, cpus) or clock or default.clock_hz,
        provenance="estimated" + (f" (assumed: {', '.join(assumed)})" if assumed else ""),
    )


def from_features(arch: str, reported: frozenset[str], hardware_threads: int) -> Machine:
    """A machine of which only the features are known (Windows): caches are the defaults, x86 cores have two threads."""
    threads = 2 if arch == "x86_64" else 1
    return Machine(
        name=platform.processor() or platform.machine(),
        arch=arch,
        system="windows" if sys.platform == "win32" else "linux",
        features=reported & linux.USEFUL[arch],
        cores=max(1, hardware_threads // threads),
        provenance=f"estimated (assumed: caches, {threads} hardware threads a core)",
    )


def available_memory_bytes() -> int | None:
    """Memory that this process can still get, control groups' limits included; None where nothing tells."""
    return linux.available_memory_bytes(Path("/")) if sys.platform == "linux" else None
