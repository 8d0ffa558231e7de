"""What Linux says about the processor, in text files. Every function reads below a `root`: tests feed fake trees.

Sources: proc(5) for `cpuinfo`, `cgroup` and `mountinfo`; in the kernel's documentation
`ABI/stable/sysfs-devices-system-cpu` for caches and siblings, `admin-guide/cgroup-v2.rst` and
`scheduler/sched-bwc.rst` for quotas.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CPUS = "sys/devices/system/cpu"

# The kernel's names where LLVM has others. Names that are equal are in `_SAME`; all others are of no use here.
_RENAMED = {
    "x86_64": {
        "pni": "sse3",
        "sse4_1": "sse4.1",
        "sse4_2": "sse4.2",
        "abm": "lzcnt",
        "bmi1": "bmi",
        "avx_vnni": "avxvnni",
        "avx512_vbmi2": "avx512vbmi2",
        "avx512_vnni": "avx512vnni",
        "avx512_bitalg": "avx512bitalg",
        "avx512_vpopcntdq": "avx512vpopcntdq",
        "avx512_bf16": "avx512bf16",
        "avx512_fp16": "avx512fp16",
        "amx_tile": "amx-tile",
        "amx_bf16": "amx-bf16",
        "amx_int8": "amx-int8",
        "amx_fp16": "amx-fp16",
    },
    "aarch64": {
        "asimd": "neon",
        "fp": "fp-armv8",
        "asimdhp": "fullfp16",
        "asimddp": "dotprod",
    },
}
_SAME = {
    "x86_64": frozenset({"sse", "sse2", "ssse3", "popcnt", "avx", "avx2", "fma", "f16c", "bmi2", "movbe"})
    | {"gfni", "vaes", "vpclmulqdq"}
    | {"avx512" + name for name in ("f", "bw", "dq", "vl", "cd", "ifma", "vbmi")},
    "aarch64": frozenset({"i8mm", "bf16"}),
}
USEFUL = {arch: _SAME[arch] | frozenset(_RENAMED[arch].values()) for arch in _SAME}


@dataclass(frozen=True)
class Caches:
    """Data caches in bytes; None where the kernel does not tell. `l2` is one core's share, `l3_cores` share the L3."""

    l1d: int | None
    l2: int | None
    l3: int | None
    l3_cores: int
    line: int | None


def read_text(path: Path) -> str | None:
    """The file's text; None where it is missing or not readable (containers hide any of these files)."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def parse_cpuinfo(text: str) -> tuple[str, frozenset[str], float | None]:
    """(name, the kernel's flags that all processors have, highest clock in Hz or None) of `/proc/cpuinfo`."""
    name, flags, clock = "", None, None
    for line in text.splitlines():
        key, _, value = (part.strip() for part in line.partition(":"))
        if key in ("flags", "Features"):
            flags = frozenset(value.split()) if flags is None else flags & frozenset(value.split())
        elif key == "model name":
            name = name or value
        elif key == "cpu MHz" and re.fullmatch(r"\d+(\.\d+)?", value):
            clock = max(clock or 0.0, float(value) * 1e6)
    return name, flags or frozenset(), clock or None


def features_of(arch: str, flags: frozenset[str]) -> frozenset[str]:
    """LLVM's names of the kernel's flags."""
    renamed = _RENAMED[arch]
    return frozenset(renamed[flag] for flag in flags if flag in renamed) | (flags & _SAME[arch])


def parse_cpu_list(text: str) -> frozenset[int]:
    """The numbers in a list like `0-3,8,10-11`; empty text is an empty set, and so is a damaged one."""
    cpus: set[int] = set()
    for part in text.strip().split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
        if match:
            cpus.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return frozenset(cpus)


def parse_bytes(text: str) -> int | None:
    """`48K`, `2M`, `1G` or plain bytes; None for anything else and for zero."""
    match = re.fullmatch(r"(\d+)([KMG]?)", text.strip())
    return (int(match[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[match[2]]) or None if match else None


def usable_cpus(root: Path, affinity: frozenset[int]) -> frozenset[int]:
    """Those of `affinity` that are online. Affinity masks may name processors that have been taken offline."""
    online = parse_cpu_list(read_text(root / CPUS / "online") or "")
    return (affinity & online if online else affinity) or affinity


def siblings(root: Path, cpu: int) -> frozenset[int]:
    """The hardware threads of `cpu`'s core, itself among them."""
    topology = root / CPUS / f"cpu{cpu}" / "topology"
    text = read_text(topology / "thread_siblings_list") or read_text(topology / "core_cpus_list") or ""
    return parse_cpu_list(text) | {cpu}


def count_cores(root: Path, cpus: frozenset[int]) -> int:
    """Physical cores among hardware threads."""
    return len({min(siblings(root, cpu)) for cpu in cpus})


def read_caches(root: Path, cpus: frozenset[int]) -> Caches:
    """Caches that every one of `cpus` has: on hybrid processors the smallest of each level."""
    found: dict[int, list[tuple[int, int]]] = {1: [], 2: [], 3: []}  # level -> (bytes, cores that share it)
    lines = []
    for cpu in sorted(cpus):
        for index in sorted((root / CPUS / f"cpu{cpu}" / "cache").glob("index[0-9]*")):
            level = read_text(index / "level") or ""
            bytes_ = parse_bytes(read_text(index / "size") or "")
            if (read_text(index / "type") or "").strip() == "Instruction" or bytes_ is None:
                continue
            if level.strip() in ("1", "2", "3"):
                sharers = parse_cpu_list(read_text(index / "shared_cpu_list") or "") | {cpu}
                found[int(level)].append((bytes_, count_cores(root, sharers)))
                lines.append(parse_bytes(read_text(index / "coherency_line_size") or "") or 64)
    shares = {level: min((b // c for b, c in caches), default=None) for level, caches in found.items()}
    l3, l3_cores = min(found[3], default=(None, 1))
    if l3 is None and shares[2] is not None:
        l3 = 0  # the kernel describes the caches, and there is no third level
    return Caches(shares[1], shares[2], l3, l3_cores, max(lines, default=None))


def max_clock_hz(root: Path, cpus: frozenset[int]) -> float | None:
    """The highest frequency that the driver admits."""
    clocks = []
    for cpu in cpus:
        text = (read_text(root / CPUS / f"cpu{cpu}" / "cpufreq" / "cpuinfo_max_freq") or "").strip()
        clocks += [float(text) * 1e3] if text.isdigit() and int(text) else []
    return max(clocks, default=None)


def cpu_quota(root: Path) -> float | None:
    """Processors' worth of time that control groups (v1 and v2) allow; None without a limit."""
    limits = (_quota_v2(group) if is_v2 else _quota_v1(group) for group, is_v2 in _groups(root, "cpu"))
    return min((limit for limit in limits if limit is not None), default=None)


def available_memory_bytes(root: Path) -> int | None:
    """Memory that the process can still get without swapping or being killed; None where nothing tells."""
    match = re.search(r"^MemAvailable:\s*(\d+) kB$", read_text(root / "proc/meminfo") or "", re.MULTILINE)
    free = [int(match[1]) << 10] if match else []
    for group, is_v2 in _groups(root, "memory"):
        names = ("memory.max", "memory.current") if is_v2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
        limit, used = ((read_text(group / name) or "").strip() for name in names)
        if limit.isdigit() and used.isdigit():
            free.append(max(0, int(limit) - int(used)))
    return min(free, default=None)


def cores_allowed(root: Path, cpus: frozenset[int]) -> int:
    """Physical cores that affinity and quota leave to the process, at least 1."""
    cores = count_cores(root, cpus)
    quota = cpu_quota(root)
    return max(1, cores if quota is None else min(cores, math.ceil(quota)))


def _groups(root: Path, controller: str) -> Iterator[tuple[Path, bool]]:
    """(folder, whether it is version 2) of the process's control group and of every group above it.

    All of them limit the process. The path in `proc/self/cgroup` is that of the host, the mount may show a part of it.
    """
    own_groups = read_text(root / "proc/self/cgroup") or ""
    for line in (read_text(root / "proc/self/mountinfo") or "").splitlines():
        left, _, right = line.partition(" - ")
        fields, kind = left.split(), right.split()
        if len(fields) < 5 or len(kind) < 3:
            continue
        is_v2 = kind[0] == "cgroup2"
        if not is_v2 and not (kind[0] == "cgroup" and controller in kind[2].split(",")):
            continue
        path = _own_path(own_groups, controller, is_v2)
        if path is None:
            continue
        point = re.sub(r"\\(\d{3})", lambda match: chr(int(match[1], 8)), fields[4])
        for folder in _upwards(root / point.lstrip("/"), _below(path, fields[3])):
            yield folder, is_v2


def _own_path(cgroups: str, name: str, is_v2: bool) -> str | None:
    """The process's group in `/proc/self/cgroup`: lines `0::/path` (v2) and `4:cpu,cpuacct:/path` (v1)."""
    for line in cgroups.splitlines():
        hierarchy, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if (hierarchy == "0" and not controllers) if is_v2 else name in controllers.split(","):
            return path
    return None


def _below(path: str, mount_root: str) -> str:
    """`path` as seen below a mount of `mount_root`; the mount itself where the process's group is hidden."""
    prefix = mount_root.rstrip("/") + "/"
    inside = path.rstrip("/") + "/"
    return inside[len(prefix) :] if inside.startswith(prefix) and ".." not in path else ""


def _upwards(mount: Path, relative: str) -> Iterator[Path]:
    folder = mount / relative
    while folder != mount:
        yield folder
        folder = folder.parent
    yield mount


def _quota_v2(folder: Path) -> float | None:
    match = re.fullmatch(r"(\d+) (\d+)", (read_text(folder / "cpu.max") or "").strip())
    return int(match[1]) / int(match[2]) if match and int(match[1]) and int(match[2]) else None


def _quota_v1(folder: Path) -> float | None:
    quota = (read_text(folder / "cpu.cfs_quota_us") or "").strip()  # -1: no limit
    period = (read_text(folder / "cpu.cfs_period_us") or "").strip()
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(quota) and int(period) else None
