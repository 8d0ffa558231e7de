"""`fft` on the layers that it is for, and on the ways through it that the common cases do not take.

Large filters, lines, wrapped tiles, several blocks and groups of tiles; accuracy beside direct summation; what it
refuses, and where the planner takes it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from algorithms.layers import Case, Data, Run, available_isas, check, machine_of
from waterline.algorithms import by_name
from waterline.algorithms.fft import FFT, layer
from waterline.algorithms.fft.geometry import Slots
from waterline.algorithms.fft.tiling import FftConfig, Tiling, Window, block_tiles_of, is_filter
from waterline.codegen.cpu.jit import compile_object
from waterline.machine import CATALOGUE, Machine
from waterline.planner.choice import choose
from waterline.spec import Activation, ConvSpec, Epilogue

FULL = Epilogue(bias=True, before=Activation("relu"), residual=True, after=Activation("clip", (-3.0, 6.0)))
EPILOGUES = (Epilogue(), FULL, Epilogue(bias=True, after=Activation("gelu")))
LAYERS = (
    "n1_c16_h28_w28_k16_r31_s31_st1_pd15_dl1_g16",  # one tile that wraps
    "n1_c20_h64_w50_k20_r13_s13_st1_pd6_dl1_g20",
    "n1_c3_h14_w15_k3_r27_s27_st1_pd13_dl1_g3",  # filters larger than the image
    "n1_c5_h30_w31_k9_r11_s11_st1_pd5_dl1_g1",
    "n1_c3_h40_w37_k40_r9_s7_st1_pd4x3x1x2_dl1_g1",  # asymmetric
    "n1_c33_h13_w50_k35_r3_s9_st1_pd-1x2x3x-2_dl1_g1",  # cropped
    "n1_c2_h9_w9_k2_r9_s9_st1_pd0_dl1_g1",  # one output
    "n1_c2_h9_w9_k2_r9_s9_st1_pd8_dl1_g1",  # windows that reach one pixel
    "n1_c8_h20_w20_k12_r5_s5_st1_pd2_dl1_g2",
    "n1_c8_h20_w20_k16_r5_s5_st1_pd2_dl1_g8",  # two filters a channel
    "n1_c40_h20_w20_k40_r5_s5_st1_pd2_dl1_g5",
    "n1_c1_h1_w3000_k1_r1_s1024_st1_pd0x512_dl1_g1",  # one channel
    "n1_c4_h1_w3000_k4_r1_s1024_st1_pd0_dl1_g1",
    "n1_c4_h2_w1500_k4_r1_s257_st1_pd0x128_dl1_g4",  # two lines
    "n1_c3_h900_w2_k5_r129_s1_st1_pd64x0_dl1_g1",  # upright
    "n1_c40_h40_w1_k40_r31_s1_st1_pd2x0x9x1_dl1_g40",
    "n1_c16_h3_w40_k16_r1_s7_st1_pd1x3_dl1_g16",  # lines in the padding
)


def configured() -> Iterator[Case]:
    """Every layer with its configs, each with another epilogue and another layout."""
    for isa in available_isas():
        for text in LAYERS if isa in ("avx512", "avx2", "neon") else LAYERS[::4]:
            spec = ConvSpec.parse(text)
            for i, config in enumerate(FFT.configs(spec, machine_of(isa))[:3]):
                layouts = (("dense", "concat", "crop")[i], ("dense", "concat")[i % 2])
                yield Case("fft", isa, spec.with_epilogue(EPILOGUES[i]), config, *layouts)


def tiled() -> Iterator[Case]:
    """One pixel fewer than a tile's outputs, as many, one more, twice as many and one more; on both axes."""
    isa = available_isas()[-1]
    for groups, config in ((1, FftConfig(9, 12, 3, 1, 6)), (5, FftConfig(9, 12))):
        for p, q in ((7, 1), (1, 8), (6, 7), (7, 8), (8, 9), (15, 17), (14, 23)):
            spec = ConvSpec(1, 5, p + 2, q + 4, 5, 3, 5, groups=groups, epilogue=Epilogue(bias=True))
            yield Case("fft", isa, spec, config)
    for groups, config in ((1, FftConfig(5, 8, 3, 1, 6)), (5, FftConfig(5, 8))):  # lines of 40 points
        for q in (1, 33, 34, 35, 68, 69):
            yield Case("fft", isa, ConvSpec(1, 5, 2, q + 6, 5, 1, 7, groups=groups), config)


@pytest.mark.parametrize("case", list(configured()), ids=str)
def test_layers(case: Case, forked):
    check(case, forked)


@pytest.mark.parametrize("case", list(tiled()), ids=str)
def test_sizes_around_a_tile(case: Case, forked):
    check(case, forked)


@pytest.mark.parametrize("has_room", [True, False], ids=["blocks", "groups"])
@pytest.mark.parametrize(("channels", "outputs"), [(1, 17), (3, 1), (17, 17)])
def test_several_blocks_and_groups_of_tiles(channels: int, outputs: int, has_room: bool, forked, monkeypatch):
    """Small blocks; and little memory for half-way data: groups of tiles that begin in the middle of an image."""
    if not has_room:
        monkeypatch.setattr(layer, "GROUP_BYTES", 1 << 14)
    spec = ConvSpec(1, channels, 21, 40, outputs, 5, 5, pad=(2, 2, 2, 2), epilogue=FULL)
    config = FftConfig(8, 8, 2, 1, 2)
    case = Case("fft", available_isas()[-1], spec, config, "crop", "concat")
    calls, lanes = case.implementation(3).calls, case.machine.lanes()
    assert block_tiles_of(spec, config, lanes) % Slots(channels, lanes).tiles == 0
    if has_room:
        assert len(calls) == 3
        assert calls[1].items > calls[1].kernel.geometry.rows.count, "one block"
    else:
        assert len(calls) > 3, "one group"
    check(case, forked)


@pytest.mark.parametrize("text", [LAYERS[0], LAYERS[3], LAYERS[12]])
def test_whole_numbers_are_whole_after_rounding(text: str, forked):
    """Sums of small whole numbers are so exact that rounding gives them: catches what a tolerance would hide."""
    spec = ConvSpec.parse(text)
    isa = available_isas()[-1]
    data = Data.random(spec, np.random.default_rng(5), whole=True)
    run = Run(Case("fft", isa, spec, FFT.configs(spec, machine_of(isa))[0]), data, "")
    assert not forked(run.execute)
    np.testing.assert_array_equal(np.rint(run.result()), data.truth(spec))


# ---- accuracy -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "most"),
    [
        ("n1_c16_h56_w56_k16_r31_s31_st1_pd15_dl1_g16", 0.5),
        ("n1_c16_h56_w56_k16_r7_s7_st1_pd3_dl1_g16", 1.5),
        ("n1_c16_h28_w28_k16_r3_s3_st1_pd1_dl1_g16", 3.0),
        ("n1_c3_h56_w56_k16_r11_s11_st1_pd5_dl1_g1", 0.75),
        ("n1_c4_h1_w4096_k4_r1_s1024_st1_pd0x512_dl1_g1", 0.5),
        ("n1_c16_h1_w1000_k16_r1_s3_st1_pd0x1_dl1_g16", 4.0),
    ],
)
def test_the_error_beside_direct_summation(text: str, most: float, forked):
    """Root mean squares on uniform data: smaller for large filters, and never more than `tolerance` says."""
    spec, isa = ConvSpec.parse(text), available_isas()[-1]
    random = np.random.default_rng(3)
    x = random.uniform(-1, 1, (1, spec.c, spec.h, spec.w)).astype(np.float32)
    weight = random.uniform(-1, 1, (spec.k, spec.group_c, spec.r, spec.s)).astype(np.float32)
    data = Data(x, weight, None, None)
    errors = {}
    for name in ("fft", "depthwise" if spec.is_depthwise else "indirect"):
        algorithm = by_name(name)
        run = Run(Case(name, isa, spec, algorithm.configs(spec, machine_of(isa))[0]), data, "")
        assert not forked(run.execute)
        errors[name] = float(np.sqrt(np.square(run.result() - data.truth(spec)).mean()))
    error, direct = errors.values()
    assert error <= most * direct, errors
    assert error <= FFT.tolerance(spec, FFT.configs(spec, machine_of(isa))[0]) * direct


# ---- tiles ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("taps", [1, 2, 3, 8])
def test_tiles_cover_the_outputs_and_read_the_right_pixels(taps: int):
    """Against the definition, pixel by pixel: each output meets each tap's pixel once, and nothing else."""
    for size in (1, 4, 9):
        for before in (-2, 0, 1, taps):
            for after in (-1, 0, 3):
                outputs = size + before + after - taps + 1
                if outputs < 1:
                    continue
                window = Window(size, taps, before, after, outputs)
                for n in range(taps, outputs + taps + 1):
                    tiling = Tiling.of(window, n)
                    if tiling.m >= 1:
                        assert_covers(window, tiling, n)


def assert_covers(window: Window, tiling: Tiling, n: int) -> None:
    assert tiling.m * tiling.tiles >= window.outputs
    for output in range(window.outputs):
        tile, i = divmod(output, tiling.m)
        points = {}
        for j in range(n):
            pixel = tile * tiling.m + tiling.origin + j
            if 0 <= pixel < window.last:
                points[j] = pixel
        met = {}
        for s in range(window.taps):
            j = (i + s + tiling.shift) % n
            if j in points:
                assert s not in met
                met[s] = points[j]
        wanted = {s: output - window.before + s for s in range(window.taps)}
        assert met == {s: pixel for s, pixel in wanted.items() if 0 <= pixel < window.size}, (window, tiling, n)


# ---- decisions ------------------------------------------------------------------------------------------------------
REFUSED = (
    ("n1_c8_h9_w9_k8_r3_s3_st2_pd1_dl1_g1", "stride"),
    ("n1_c8_h9_w9_k8_r3_s3_st1_pd1_dl2_g1", "dilation"),
    ("n1_c8_h9_w9_k8_r1_s1_st1_pd0_dl1_g1", "1x1"),
    ("n1_c1_h1_w99999_k1_r1_s65536_st1_pd0_dl1_g1", "at most 32768 taps"),
    ("n1_c1_h300_w300_k1_r129_s129_st1_pd0_dl1_g1", "at most 128 taps"),
    ("n1_c1024_h56_w56_k1024_r31_s31_st1_pd15_dl1_g1", "the limit is 1024 MiB"),
)


@pytest.mark.parametrize(("text", "reason"), REFUSED)
def test_refusals(text: str, reason: str):
    refusal = FFT.refuse(ConvSpec.parse(text), CATALOGUE[0])
    assert refusal is not None
    assert reason in refusal.reason


FOR_FFT = (
    "n1_c64_h56_w56_k64_r31_s31_st1_pd15_dl1_g64",
    "n1_c64_h56_w56_k64_r11_s11_st1_pd5_dl1_g1",
    "n1_c4_h1_w16384_k4_r1_s1024_st1_pd0x512_dl1_g1",
    "n1_c16_h1_w16384_k16_r1_s1024_st1_pd0x512_dl1_g16",
)
NOT_FOR_FFT = (
    "n1_c64_h56_w56_k64_r3_s3_st1_pd1_dl1_g1",
    "n1_c512_h7_w7_k512_r3_s3_st1_pd1_dl1_g1",
    "n1_c96_h56_w56_k96_r3_s3_st1_pd1_dl1_g96",
    "n1_c96_h56_w56_k96_r7_s7_st1_pd3_dl1_g96",
)


@pytest.mark.parametrize("machine", CATALOGUE, ids=lambda m: m.name)
def test_where_the_planner_takes_it(machine: Machine):
    few = replace(machine, cores=min(machine.cores, 8))
    for text in FOR_FFT:
        assert choose(ConvSpec.parse(text), few).algorithm.name == "fft", text
    for text in NOT_FOR_FFT:
        assert choose(ConvSpec.parse(text), few).algorithm.name != "fft", text


@pytest.mark.parametrize("machine", {m.isa: m for m in CATALOGUE}.values(), ids=lambda m: m.isa)
@pytest.mark.parametrize("text", [LAYERS[0], LAYERS[3], LAYERS[12], LAYERS[13]])
def test_compiles_for_every_machine(machine: Machine, text: str):
    spec = ConvSpec.parse(text).with_epilogue(FULL)
    case = Case("fft", machine.isa, spec, FFT.configs(spec, machine)[0])
    for call in FFT.implement(spec, case.config, case.views(1), machine).calls:
        assert compile_object(call.kernel.emit("kernel", machine), machine)
    assert is_filter(spec) == (len(FFT.implement(spec, case.config, case.views(1), machine).calls) == 1)
