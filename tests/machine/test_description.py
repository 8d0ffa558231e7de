"""Machines as data: widths and registers from features, rates measured or estimated, restrictions, JSON."""

import json
from dataclasses import replace

import pytest

from waterline.errors import InvalidArgument
from waterline.machine import CATALOGUE, ISAS, Bandwidth, Machine

FULL = CATALOGUE[0]  # AVX-512 and AMX


def machine(features: str, **values) -> Machine:
    return Machine("test", "x86_64", frozenset(features.split()), **values)


@pytest.mark.parametrize(
    ("features", "isa", "vector_bytes", "registers", "has_fma"),
    [
        ("sse2", "sse2", 16, 16, False),
        ("sse2 sse4.2", "sse2", 16, 16, False),
        ("sse2 avx", "avx", 32, 16, False),
        ("sse2 avx fma", "avx", 32, 16, True),
        ("sse2 avx avx2", "avx", 32, 16, False),
        ("sse2 avx avx2 fma", "avx2", 32, 16, True),
        ("sse2 avx avx2 fma avx512f avx512cd", "avx2", 32, 16, True),  # the first processors with AVX-512
        ("sse2 avx avx2 fma avx512f avx512bw avx512dq avx512vl", "avx512", 64, 32, True),
        ("sse2 avx avx2 avx512f avx512bw avx512dq avx512vl", "avx", 32, 16, False),
    ],
)
def test_widths_follow_from_features(features, isa, vector_bytes, registers, has_fma):
    m = machine(features)
    assert (m.isa, m.vector_bytes, m.vector_registers, m.has_fma) == (isa, vector_bytes, registers, has_fma)
    assert m.general_registers == 16
    assert m.lanes() == m.lanes("f32") == vector_bytes // 4
    assert m.lanes("i8") == 2 * m.lanes("bf16") == 4 * m.lanes("f32") == 8 * m.lanes("f64")


def test_neon():
    m = Machine("test", "aarch64", frozenset({"neon"}))
    assert (m.isa, m.vector_bytes, m.vector_registers, m.general_registers, m.has_fma) == ("neon", 16, 32, 32, True)


def test_a_decision_never_uses_the_name():
    renamed = replace(FULL, name="something else")
    assert renamed.target() == FULL.target()
    assert renamed.estimated_peak() == FULL.estimated_peak()


@pytest.mark.parametrize("m", CATALOGUE, ids=lambda m: m.name)
def test_target_names_no_processor(m):
    triple, cpu, features = m.target()
    assert triple.startswith(m.arch)
    assert cpu in ("x86-64", "generic")
    assert features.split(",") == sorted(f"+{name}" for name in m.features)


def test_target_of_other_systems():
    assert replace(FULL, system="windows").target()[0] == "x86_64-pc-windows-msvc"
    assert Machine("test", "aarch64", frozenset({"neon"}), system="macos").target()[0] == "arm64-apple-darwin"


@pytest.mark.parametrize("isa", [isa for isa, (arch, _, _) in ISAS.items() if arch == "x86_64"])
def test_restricted_to(isa):
    calibrated = replace(FULL, peak_flops_per_s=1e11, bandwidth=Bandwidth(4e10, 3e10, 2e10, 2e10))
    capped = calibrated.restricted(isa)
    assert capped.isa == isa
    assert capped.features < calibrated.features
    assert capped.l2_bytes == calibrated.l2_bytes
    assert capped.peak_flops_per_s is None  # measured with other instructions
    assert capped.bandwidth is None
    assert capped.restricted(isa) is capped
    assert "amx-tile" not in capped.features


def test_a_restriction_that_takes_nothing_away_keeps_the_rates():
    m = machine("sse sse2", peak_flops_per_s=1e10)
    assert m.restricted("sse2") is m


@pytest.mark.parametrize("isa", ["avx512", "avx2", "neon"])
def test_restricted_to_what_is_not_there(isa):
    with pytest.raises(InvalidArgument, match="lacks") as caught:
        machine("sse2 avx").restricted(isa)
    assert "'avx'" in caught.value.hint


def test_restricted_to_an_unknown_name():
    with pytest.raises(InvalidArgument, match="mmx") as caught:
        FULL.restricted("mmx")
    assert "avx512" in caught.value.hint


@pytest.mark.parametrize(("arch", "features"), [("x86_64", "avx2"), ("aarch64", "fp-armv8"), ("riscv64", "v")])
def test_unsupported_processors(arch, features):
    with pytest.raises(InvalidArgument):
        Machine("test", arch, frozenset({features}))


def test_estimated_peak():
    fma = machine("sse2 avx avx2 fma", clock_hz=2e9)
    assert fma.estimated_peak() == 2e9 * 8 * 2 * 2
    assert machine("sse2 avx", clock_hz=2e9).estimated_peak() == 2e9 * 8 * 2  # one multiplication, one addition


def test_peak_of_several_cores():
    m = machine("sse2", cores=4, clock_hz=1e9)
    assert m.peak(3) == 3 * m.estimated_peak()
    m = replace(m, peak_flops_per_s=10.0, peak_all_flops_per_s=28.0)  # the clock falls when all cores work
    assert [m.peak(threads) for threads in (0, 1, 2, 4, 9)] == [10.0, 10.0, 18.0, 28.0, 28.0]


def test_bandwidth_of_several_cores():
    m = machine("sse2", cores=4, bandwidth=Bandwidth(l2=100.0, l3=50.0, dram=20.0, dram_all=45.0))
    assert m.bytes_per_s("l2") == 100.0
    assert m.bytes_per_s("l3", 4) == 200.0
    assert [m.bytes_per_s("dram", threads) for threads in (1, 2, 3, 4)] == [20.0, 40.0, 45.0, 45.0]


def test_bandwidth_is_estimated_when_not_measured():
    rates = [FULL.bytes_per_s(level) for level in ("l2", "l3", "dram")]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] > 1e9


@pytest.mark.parametrize("m", CATALOGUE, ids=lambda m: m.name)
def test_json_reads_back(m):
    calibrated = replace(m, peak_flops_per_s=1.5e11, bandwidth=Bandwidth(4e10, 3e10, 2e10, 2e10))
    for each in (m, calibrated):
        assert Machine.from_dict(json.loads(json.dumps(each.to_dict()))) == each


@pytest.mark.parametrize(
    "values",
    [{}, {"features": ["sse2"]}, {**FULL.to_dict(), "speed": 1}, {**FULL.to_dict(), "bandwidth": {"l9": 1}}],
    ids=["empty", "missing", "unknown", "damaged bandwidth"],
)
def test_damaged_descriptions(values):
    with pytest.raises(InvalidArgument, match="description"):
        Machine.from_dict(values)


def test_the_catalogue_covers_every_instruction_set():
    assert {m.isa for m in CATALOGUE} == set(ISAS)
    assert len({m.name for m in CATALOGUE}) == len(CATALOGUE)
    assert all(m.peak_flops_per_s is None and m.bandwidth is None for m in CATALOGUE)
