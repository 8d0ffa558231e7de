"""Detection on fake trees of `/proc` and `/sys`: containers, hardware threads, hybrids, offline processors."""

import os
import sys
from pathlib import Path

import pytest
from llvmlite import binding

from waterline.errors import InvalidArgument
from waterline.machine import available_memory_bytes, detect, linux, macos
from waterline.machine.detect import from_features, from_linux

FLAGS = "fpu sse sse2 pni ssse3 sse4_1 sse4_2 abm bmi1 bmi2 movbe popcnt f16c avx avx2 fma rdseed"
AVX512_FLAGS = FLAGS + " avx512f avx512bw avx512dq avx512vl avx512_vnni avx512_bf16 amx_tile amx_bf16 amx_int8"
ALL = frozenset(linux.USEFUL["x86_64"])
CGROUP2 = "30 23 0:26 {root} {point} rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
CGROUP1 = "31 23 0:27 {root} {point} rw,nosuid shared:10 - cgroup cgroup rw,{controllers}\n"


class Tree:
    """A fake root. `cores` lists the hardware threads of each physical core."""

    def __init__(self, root: Path, cores: list[list[int]], flags: str = AVX512_FLAGS, online: str | None = None):
        self.root = root
        text = "".join(
            f"processor\t: {cpu}\nmodel name\t: Test CPU\ncpu MHz\t\t: 2500.000\nflags\t\t: {flags}\n\n"
            for core in cores
            for cpu in core
        )
        self.write("proc/cpuinfo", text)
        for core in cores:
            for cpu in core:
                self.write(f"{linux.CPUS}/cpu{cpu}/topology/thread_siblings_list", ",".join(map(str, core)))
        if online is not None:
            self.write(f"{linux.CPUS}/online", online)

    def write(self, path: str, text: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")

    def cache(self, cpu: int, index: int, level: int, size: str, shared: str, kind: str = "Data", line: int = 64):
        folder = f"{linux.CPUS}/cpu{cpu}/cache/index{index}"
        for name, text in [("level", level), ("size", size), ("shared_cpu_list", shared), ("type", kind)]:
            self.write(f"{folder}/{name}", str(text))
        self.write(f"{folder}/coherency_line_size", str(line))

    def detect(self, *affinity: int, reported=ALL, arch="x86_64"):
        return from_linux(self.root, arch, frozenset(affinity), frozenset(reported))


# ---- features -------------------------------------------------------------------------------------------------------
def test_features_in_llvm_names(tmp_path):
    m = Tree(tmp_path, [[0]]).detect(0)
    assert m.isa == "avx512"
    assert {"sse4.1", "sse3", "lzcnt", "bmi", "avx512vnni", "avx512bf16", "amx-tile", "amx-int8"} <= m.features
    assert "rdseed" not in m.features  # of no use for kernels
    assert m.name == "Test CPU"
    assert m.clock_hz == 2.5e9


def test_a_feature_counts_only_if_kernel_and_cpuid_report_it(tmp_path):
    assert Tree(tmp_path / "a", [[0]], FLAGS).detect(0).isa == "avx2"  # the kernel has switched AVX-512 off
    emulated = Tree(tmp_path / "b", [[0]]).detect(0, reported={"sse", "sse2", "avx", "fma"})
    assert emulated.features == {"sse", "sse2", "avx", "fma"}


def test_without_cpuid_the_kernel_decides(tmp_path):
    assert Tree(tmp_path, [[0]]).detect(0, reported=()).isa == "avx512"


def test_a_hybrid_has_the_features_of_all_its_processors(tmp_path):
    tree = Tree(tmp_path, [[0], [1]])
    tree.write("proc/cpuinfo", f"processor : 0\nflags : {AVX512_FLAGS}\n\nprocessor : 1\nflags : {FLAGS}\n")
    assert tree.detect(0, 1).isa == "avx2"


def test_without_any_file(tmp_path):
    m = from_linux(tmp_path, "x86_64", frozenset({0, 1}), frozenset({"sse2", "avx", "shstk"}))
    assert m.features == {"sse2", "avx"}
    assert m.cores == 2
    assert m.l2_bytes > 0
    assert "assumed" in m.provenance
    assert "L2 of 512 KiB" in m.provenance


def test_a_processor_without_the_least_features(tmp_path):
    with pytest.raises(InvalidArgument, match="sse2"):
        from_linux(tmp_path, "x86_64", frozenset({0}), frozenset())


def test_aarch64(tmp_path):
    tree = Tree(tmp_path, [[0]])
    tree.write("proc/cpuinfo", "processor : 0\nFeatures : fp asimd asimdhp asimddp i8mm bf16 sve\nCPU part : 0xd40\n")
    m = tree.detect(0, arch="aarch64", reported=())
    assert m.features == {"fp-armv8", "neon", "fullfp16", "dotprod", "i8mm", "bf16"}


def test_damaged_cpuinfo():
    assert linux.parse_cpuinfo("flags\nmodel name\n:::\ncpu MHz : fast\n\x00\n") == ("", frozenset(), None)


# ---- cores ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("cores", "affinity", "expected"),
    [
        ([[0], [1], [2], [3]], (0, 1, 2, 3), 4),
        ([[0, 4], [1, 5], [2, 6], [3, 7]], range(8), 4),  # two hardware threads a core
        ([[0, 1], [2, 3]], (0, 1), 1),  # both of one core
        ([[0, 1], [2, 3]], (1, 3), 2),
        ([[0, 1], [2, 3], [4], [5]], range(6), 4),  # hybrid: big cores have two threads, small ones one
        ([[7]], (7,), 1),
    ],
)
def test_physical_cores(tmp_path, cores, affinity, expected):
    assert Tree(tmp_path, cores).detect(*affinity).cores == expected


def test_offline_processors_do_not_count(tmp_path):
    assert Tree(tmp_path, [[0], [1], [2], [3]], online="0-1").detect(0, 1, 2, 3).cores == 2


def test_an_affinity_that_contradicts_the_online_list_is_believed(tmp_path):
    assert Tree(tmp_path, [[0], [1]], online="0").detect(1).cores == 1


@pytest.mark.parametrize(
    ("text", "cpus"),
    [("0-3,8,10-11\n", {0, 1, 2, 3, 8, 10, 11}), ("5", {5}), ("", set()), ("\n", set()), ("x,2,-", {2})],
)
def test_cpu_lists(text, cpus):
    assert linux.parse_cpu_list(text) == cpus


# ---- quotas ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("limit", "cores"),
    [("200000 100000", 2), ("250000 100000", 3), ("10000 100000", 1), ("max 100000", 8), ("damaged", 8), ("", 8)],
)
def test_quota_v2(tmp_path, limit, cores):
    tree = Tree(tmp_path, [[cpu] for cpu in range(8)])
    tree.write("proc/self/cgroup", "0::/")  # a container with its own namespace
    tree.write("proc/self/mountinfo", CGROUP2.format(root="/", point="/sys/fs/cgroup"))
    tree.write("sys/fs/cgroup/cpu.max", limit)
    assert tree.detect(*range(8)).cores == cores


def test_the_least_quota_of_all_groups_above_counts(tmp_path):
    tree = Tree(tmp_path, [[cpu] for cpu in range(8)])
    tree.write("proc/self/cgroup", "0::/system.slice/job.service/worker")
    tree.write("proc/self/mountinfo", CGROUP2.format(root="/", point="/sys/fs/cgroup"))
    tree.write("sys/fs/cgroup/system.slice/cpu.max", "300000 100000")
    tree.write("sys/fs/cgroup/system.slice/job.service/worker/cpu.max", "500000 100000")
    assert linux.cpu_quota(tmp_path) == 3.0
    assert tree.detect(*range(8)).cores == 3


def test_quota_v1_of_a_container_that_sees_the_host_path(tmp_path):
    tree = Tree(tmp_path, [[cpu] for cpu in range(8)])
    tree.write("proc/self/cgroup", "4:cpu,cpuacct:/docker/abc\n3:memory:/docker/abc\n0::/")
    mount = {"root": "/docker/abc", "point": "/sys/fs/cgroup/cpu\\040acct", "controllers": "cpu,cpuacct"}
    tree.write("proc/self/mountinfo", "not a mount\n" + CGROUP1.format(**mount))
    tree.write("sys/fs/cgroup/cpu acct/cpu.cfs_quota_us", "150000")
    tree.write("sys/fs/cgroup/cpu acct/cpu.cfs_period_us", "100000")
    assert linux.cpu_quota(tmp_path) == 1.5
    assert tree.detect(*range(8)).cores == 2


def test_quota_v1_without_limit(tmp_path):
    tree = Tree(tmp_path, [[0], [1]])
    tree.write("proc/self/cgroup", "4:cpu,cpuacct:/")
    tree.write("proc/self/mountinfo", CGROUP1.format(root="/", point="/sys/fs/cgroup/cpu", controllers="cpu,cpuacct"))
    tree.write("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1")
    tree.write("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000")
    assert linux.cpu_quota(tmp_path) is None


@pytest.mark.parametrize("path", ["/elsewhere/job", "/../../job", "/docker/abcdef"])
def test_a_group_outside_the_mount_is_looked_for_at_the_mount(tmp_path, path):
    tree = Tree(tmp_path, [[0], [1]])
    tree.write("proc/self/cgroup", f"0::{path}")
    tree.write("proc/self/mountinfo", CGROUP2.format(root="/docker/abc", point="/sys/fs/cgroup"))
    tree.write("sys/fs/cgroup/cpu.max", "100000 100000")
    assert linux.cpu_quota(tmp_path) == 1.0


def test_memory_limits(tmp_path):
    tree = Tree(tmp_path, [[0]])
    assert linux.available_memory_bytes(tmp_path) is None
    tree.write("proc/meminfo", "MemTotal:       16000000 kB\nMemAvailable:    8000000 kB")
    assert linux.available_memory_bytes(tmp_path) == 8000000 << 10
    tree.write("proc/self/cgroup", "0::/job")
    tree.write("proc/self/mountinfo", CGROUP2.format(root="/", point="/sys/fs/cgroup"))
    tree.write("sys/fs/cgroup/job/memory.max", "1000000")
    tree.write("sys/fs/cgroup/job/memory.current", "400000")
    assert linux.available_memory_bytes(tmp_path) == 600000
    tree.write("sys/fs/cgroup/job/memory.max", "max")
    assert linux.available_memory_bytes(tmp_path) == 8000000 << 10


# ---- caches ---------------------------------------------------------------------------------------------------------
def test_caches_of_a_server(tmp_path):
    tree = Tree(tmp_path, [[0, 2], [1, 3]])
    for cpu, core in [(0, "0,2"), (2, "0,2"), (1, "1,3"), (3, "1,3")]:
        tree.cache(cpu, 0, 1, "48K", core)
        tree.cache(cpu, 1, 1, "32K", core, kind="Instruction")
        tree.cache(cpu, 2, 2, "2048K", core, kind="Unified")
        tree.cache(cpu, 3, 3, "105M", "0-3", kind="Unified")
    m = tree.detect(0, 1, 2, 3)
    assert (m.l1d_bytes, m.l2_bytes, m.l3_bytes, m.l3_cores) == (48 << 10, 2 << 20, 105 << 20, 2)
    assert m.cache_line_bytes == 64
    assert m.provenance == "estimated"


def test_an_l2_shared_by_cores_is_divided_and_a_hybrid_has_the_smaller(tmp_path):
    tree = Tree(tmp_path, [[0, 1], [2], [3], [4], [5]])
    for cpu in (0, 1):
        tree.cache(cpu, 0, 1, "48K", "0-1")
        tree.cache(cpu, 2, 2, "1280K", "0-1", kind="Unified")
    for cpu in (2, 3, 4, 5):
        tree.cache(cpu, 0, 1, "32K", str(cpu))
        tree.cache(cpu, 2, 2, "2M", "2-5", kind="Unified")
    m = tree.detect(*range(6))
    assert (m.l1d_bytes, m.l2_bytes, m.l3_bytes) == (32 << 10, 512 << 10, 0)
    assert m.cores == 5
    assert tree.detect(0, 1).l2_bytes == 1280 << 10  # pinned to the big core


def test_caches_with_missing_files(tmp_path):
    tree = Tree(tmp_path, [[0]])
    tree.cache(0, 0, 1, "64K", "0")
    tree.write(f"{linux.CPUS}/cpu0/cache/index1/level", "2")  # neither size nor type, as some hypervisors leave it
    m = tree.detect(0)
    assert m.l1d_bytes == 64 << 10
    assert "L2 of 512 KiB" in m.provenance


@pytest.mark.parametrize(("text", "bytes_"), [("48K", 49152), ("2M", 2 << 20), ("64", 64), ("0K", None), ("?", None)])
def test_sizes(text, bytes_):
    assert linux.parse_bytes(text) == bytes_


def test_highest_clock(tmp_path):
    tree = Tree(tmp_path, [[0], [1]])
    tree.write(f"{linux.CPUS}/cpu0/cpufreq/cpuinfo_max_freq", "3600000")
    tree.write(f"{linux.CPUS}/cpu1/cpufreq/cpuinfo_max_freq", "5100000")
    assert tree.detect(0, 1).clock_hz == 5.1e9
    assert tree.detect(0).clock_hz == 3.6e9


# ---- other systems --------------------------------------------------------------------------------------------------
def test_macos_on_arm():
    text = """machdep.cpu.brand_string: Apple M9
hw.physicalcpu: 8
hw.perflevel0.physicalcpu: 4
hw.perflevel0.l1dcachesize: 131072
hw.perflevel0.l2cachesize: 16777216
hw.perflevel0.cpusperl2: 4
hw.cachelinesize: 128
hw.optional.arm.FEAT_FP16: 1
hw.optional.arm.FEAT_BF16: 0
"""
    m = macos.describe("aarch64", macos.parse_sysctl(text))
    assert (m.name, m.system, m.cores) == ("Apple M9", "macos", 8)
    assert (m.l1d_bytes, m.l2_bytes, m.l3_bytes, m.cache_line_bytes) == (128 << 10, 4 << 20, 0, 128)
    assert m.features == {"neon", "fp-armv8", "fullfp16"}


def test_macos_on_x86():
    text = """machdep.cpu.features: FPU SSE SSE2 SSE3 FMA AVX1.0 POPCNT
machdep.cpu.leaf7_features: BMI1 AVX2 BMI2
hw.optional.avx512f: 1
hw.optional.avx512vl: 0
hw.physicalcpu: 4
hw.l2cachesize: 262144
hw.l3cachesize: 8388608
"""
    m = macos.describe("x86_64", macos.parse_sysctl(text))
    assert m.isa == "avx2"
    assert "avx512f" in m.features
    assert "avx512vl" not in m.features
    assert (m.l2_bytes, m.l3_bytes, m.l3_cores) == (256 << 10, 8 << 20, 4)


def test_macos_that_says_nothing():
    assert macos.describe("x86_64", {}).isa == "sse2"


def test_systems_of_which_only_features_are_known():
    m = from_features("x86_64", frozenset({"sse2", "avx", "avx2", "fma", "shstk"}), hardware_threads=8)
    assert (m.isa, m.cores) == ("avx2", 4)
    assert "assumed" in m.provenance
    assert from_features("x86_64", frozenset({"sse2"}), hardware_threads=1).cores == 1


# ---- here -----------------------------------------------------------------------------------------------------------
def test_detect_here():
    m = detect()
    reported = {name for name, present in binding.get_host_cpu_features().items() if present}
    assert m.features <= reported | {"neon", "fp-armv8", "fullfp16", "dotprod", "i8mm", "bf16"}
    assert 1 <= m.cores <= (os.cpu_count() or 1)
    assert m.l1d_bytes <= m.l2_bytes
    assert m == detect()


@pytest.mark.skipif(sys.platform != "linux", reason="affinity is of Linux")
def test_detect_follows_affinity():
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert detect().cores == 1
    finally:
        os.sched_setaffinity(0, before)


def test_detect_with_a_cap():
    base = "neon" if detect().arch == "aarch64" else "sse2"
    assert detect(base).isa == base
    with pytest.raises(InvalidArgument):
        detect("sse9")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_available_memory_here():
    assert (available_memory_bytes() or 0) > 1 << 20
