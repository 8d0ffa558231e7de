"""The probes: their instructions on every machine of the catalogue, and their results on this one."""

import re

import numpy as np
import pytest

from waterline.codegen.cpu import probes
from waterline.codegen.cpu.jit import compile_assembly
from waterline.machine import CATALOGUE, ISAS, Machine, detect

HERE = detect()
RESTRICTIONS = [isa for isa, (arch, needed, _) in ISAS.items() if arch == HERE.arch and needed <= HERE.features]
MNEMONICS = {  # what one vector operation of the peak loop is
    "avx512": r"vfmadd\w+ps\s.*%zmm",
    "avx2": r"vfmadd\w+ps\s.*%ymm",
    "avx": r"v(mul|add)ps\s.*%ymm",
    "sse2": r"\b(mul|add)ps\s",
    "neon": r"\bfmla\s",
}


def function(assembly: str, name: str) -> str:
    return assembly[assembly.index(f"{name}:") :].split("\n.Lfunc_end")[0]


@pytest.mark.parametrize("machine", CATALOGUE, ids=lambda m: m.name)
def test_emission_is_pure(machine: Machine):
    assert probes.emit_probes(machine) == probes.emit_probes(machine)


@pytest.mark.parametrize("machine", CATALOGUE, ids=lambda m: m.name)
def test_the_peak_loop_stays_in_registers(machine: Machine):
    text = function(compile_assembly(probes.emit_probes(machine), machine), probes.PEAK)
    assert len(re.findall(MNEMONICS[machine.isa], text)) == probes.OPERATIONS
    assert not re.search(r"[Ss]pill|\bcall", text)


@pytest.mark.parametrize("machine", CATALOGUE, ids=lambda m: m.name)
def test_the_read_loop_loads_whole_vectors(machine: Machine):
    text = function(compile_assembly(probes.emit_probes(machine), machine), probes.READ)
    if machine.isa == "neon":
        assert 2 * len(re.findall(r"\bldp\s+q", text)) + len(re.findall(r"\bldr\s+q", text)) == probes.LOADS
    else:
        register = {"avx512": "zmm", "sse2": "xmm"}.get(machine.isa, "ymm")
        assert len(re.findall(rf"xor\w+\s+-?\d*\(.*%{register}", text)) == probes.LOADS


@pytest.mark.parametrize("isa", RESTRICTIONS)
def test_reads_every_byte(isa: str):
    machine = HERE.restricted(isa)
    step = probes.read_step_bytes(machine)
    rng = np.random.default_rng(5)
    memory = rng.integers(0, 2**32, size=(6 * step + 64) // 4, dtype=np.uint32)
    start = -memory.ctypes.data % 64 // 4
    data = memory[start : start + 5 * step // 4]
    expected = np.bitwise_xor.reduce(data.reshape(-1, machine.lanes()), axis=0)
    loaded = probes.load_probes(machine)
    np.testing.assert_array_equal(loaded.read(data.ctypes.data, data.nbytes, 1), expected)
    np.testing.assert_array_equal(loaded.read(data.ctypes.data, data.nbytes, 3), expected)
    assert not loaded.read(data.ctypes.data, data.nbytes, 2).any()
    with pytest.raises(ValueError, match="whole steps"):
        loaded.read(data.ctypes.data, data.nbytes - 4, 1)


@pytest.mark.parametrize("isa", RESTRICTIONS)
def test_counts_operations(isa: str):
    machine = HERE.restricted(isa)
    loaded = probes.load_probes(machine)
    assert loaded is probes.load_probes(machine)
    one = probes.flops_per_iteration(machine)
    assert loaded.multiply_add(10) == 10 * one
    assert loaded.multiply_add(0) == one
