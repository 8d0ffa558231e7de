"""Which layers every algorithm is tried on. All follow from the registry: a new algorithm needs no line here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from algorithms.layers import Case, machine_of
from waterline.algorithms import REGISTRY, Algorithm, GemmConfig
from waterline.algorithms.depthwise.model import DepthwiseConfig
from waterline.algorithms.grouped.model import ColumnConfig
from waterline.algorithms.winograd.layer import WinogradConfig
from waterline.machine import Machine
from waterline.spec import Activation, ConvSpec, Epilogue

RELU, CLIP, LEAKY = Activation("relu"), Activation("clip", (-3.0, 6.0)), Activation("leaky_relu", (0.25,))
GELU, SILU, HARD_SWISH = Activation("gelu"), Activation("silu"), Activation("hard_swish")

# Configs beyond those that the algorithms choose for themselves: the smallest, and some odd ones.
HAND_MADE: dict[type, tuple[Any, ...]] = {
    GemmConfig: (GemmConfig(1, 1, 1, 1, False), GemmConfig(3, 2, 3, 2, True), GemmConfig(2, 3, 1, 1, True, 0, 64, 2)),
    DepthwiseConfig: (DepthwiseConfig(1, 1, 1), DepthwiseConfig(3, 2, 2)),
    ColumnConfig: (ColumnConfig(1), ColumnConfig(5)),
}
# So many of an algorithm's configs meet all sizes; the others meet one each.
THOROUGH_CONFIGS = 2


# ---- sizes from blocks ----------------------------------------------------------------------------------------------
def block_cases(algorithm: Algorithm, isa: str) -> Iterator[Case]:
    """Every config with pixels, channels and outputs one short of, equal to and one beyond what a block takes.

    Not all combinations: each size of one kind meets different sizes of the others.
    """
    machine = machine_of(isa)
    lanes = machine.lanes()
    channels = [1, lanes - 1, lanes, lanes + 1]
    number = 0
    for base in bases(lanes):
        if algorithm.refuse(base, machine) is not None:
            continue
        own = algorithm.configs(base, machine)
        made = [config for kind in {type(c): None for c in own} for config in HAND_MADE.get(kind, ())]
        for position, config in enumerate(own + made):
            tile = tile_pixels(config)
            sizes = [1, tile - 1, tile, tile + 1, 2 * tile + 1]
            if position >= THOROUGH_CONFIGS:
                sizes = [sizes[(position + 3) % 5]]
            for pixels in sizes:
                number += 1
                c, k = channels[number % 4], channels[(number + number // 4) % 4]
                if number % 3 or base.is_depthwise:  # outputs that take the whole width of a panel
                    k += (getattr(config, "vectors", 1) - 1) * lanes
                spec = resized(base, max(pixels, 1), c, k)
                if algorithm.refuse(spec, machine) is None and fits(algorithm, spec, config, machine):
                    layouts = ("dense", "concat") if number % 2 else ("concat", "dense")
                    yield Case(algorithm.name, isa, spec, config, *layouts)


def bases(lanes: int) -> list[ConvSpec]:
    """One layer for each shape of filter and of groups that the algorithms tell apart."""
    bias = Epilogue(bias=True)
    return [
        ConvSpec(1, 3 * lanes, 5, 9, 3 * lanes, 1, 1, epilogue=bias),
        ConvSpec(1, 2 * lanes, 5, 9, 3 * lanes, 3, 3, pad=(1, 1, 1, 1), epilogue=bias),
        ConvSpec(1, 2 * lanes, 5, 9, 2 * lanes, 3, 3, pad=(1, 1, 1, 1), groups=2 * lanes, epilogue=bias),
        ConvSpec(1, 2 * lanes, 5, 9, 2 * lanes, 3, 3, pad=(1, 1, 1, 1), groups=lanes, epilogue=bias),
        ConvSpec(1, 4 * lanes, 5, 9, 4 * lanes, 3, 3, pad=(1, 1, 1, 1), groups=2, epilogue=bias),
    ]


def tile_pixels(config: Any) -> int:
    """Output pixels in a row that a block of `config` takes."""
    for name in ("m", "width", "rows"):
        if hasattr(config, name):
            return int(getattr(config, name))
    return 2


def resized(base: ConvSpec, pixels: int, c: int, k: int) -> ConvSpec:
    """`base` with one row of `pixels` outputs (square where that is small), `c` channels in and `k` out.

    Depthwise layers keep k == c; others keep their groups, with c and k channels in each where those are wide.
    """
    h = pixels if base.taps > 1 and pixels <= 5 else 1
    if base.is_depthwise:
        return replace(base, h=h, w=pixels, c=max(k, 2), k=max(k, 2), groups=max(k, 2))
    if base.groups > 2:  # narrow groups: as many as make about k outputs
        groups = max(2, k // base.group_k + 1)
        return replace(base, h=h, w=pixels, c=groups * base.group_c, k=groups * base.group_k, groups=groups)
    return replace(base, h=h, w=pixels, c=c * base.groups, k=k * base.groups)


def fits(algorithm: Algorithm, spec: ConvSpec, config: Any, machine: Machine) -> bool:
    """Whether a config made for a larger layer serves this one: of each kind of config the algorithm has its own."""
    own = algorithm.configs(spec, machine)
    if not any(isinstance(c, type(config)) for c in own):
        return False
    if isinstance(config, WinogradConfig) and config.chunk_elems and spec.c % config.chunk_elems:
        return False
    return not isinstance(config, DepthwiseConfig) or config.vectors == 1 or spec.c >= config.vectors * machine.lanes()


# ---- odd layers -----------------------------------------------------------------------------------------------------
ODD = (
    "n1_c3_h11_w13_k16_r3_s3_st2_pd1_dl1_g1",  # a first layer
    "n1_c3_h17_w19_k10_r7_s7_st2_pd3_dl1_g1",
    "n1_c3_h23_w23_k9_r11_s11_st4_pd2_dl1_g1",
    "n1_c3_h9_w9_k7_r3_s3_st2_pd0_dl1_g1",  # filter rows without padding: taken as one run
    "n1_c1_h9_w8_k1_r5_s5_st1_pd2_dl1_g1",
    "n1_c20_h6_w5_k1_r3_s3_st1_pd1_dl1_g1",
    "n1_c1_h1_w29_k5_r1_s3_st1_pd0x1_dl1_g1",
    "n1_c19_h1_w40_k9_r1_s1_st1_pd0_dl1_g1",
    "n1_c19_h37_w1_k9_r3_s1_st1_pd1x0_dl1_g1",
    "n1_c70_h1_w1_k33_r1_s1_st1_pd0_dl1_g1",  # fully connected
    "n1_c70_h1_w3_k33_r1_s1_st1_pd0_dl1_g1",
    "n1_c17_h9_w9_k5_r1_s1_st2_pd0_dl1_g1",
    "n1_c6_h11_w10_k7_r2_s2_st3_pd0_dl1_g1",  # stride > filter
    "n1_c6_h8_w7_k7_r3_s2_st1x2_pd2x0x0x1_dl1_g1",  # asymmetric
    "n1_c5_h9_w9_k6_r3_s3_st1_pd-1x1x2x-2_dl1_g1",  # cropped
    "n1_c5_h9_w9_k6_r3_s3_st2_pd-2_dl1_g1",
    "n1_c5_h4_w4_k6_r3_s3_st1_pd4_dl1_g1",  # whole windows in the padding
    "n1_c7_h11_w11_k8_r3_s3_st1_pd2_dl2_g1",
    "n1_c7_h12_w11_k8_r3_s2_st2x1_pd0_dl3x4_g1",
    "n1_c6_h5_w4_k5_r4_s4_st1_pd2_dl1_g1_up2",
    "n1_c6_h5_w4_k5_r3_s2_st2x1_pd1x0_dl1x2_g1_up3x2",
    "n1_c6_h5_w4_k9_r3_s3_st1_pd1_dl1_g3_up2",
    "n1_c33_h7_w6_k33_r3_s3_st1_pd1_dl1_g33",  # depthwise
    "n1_c16_h9_w30_k16_r3_s3_st2_pd1_dl1_g16",
    "n1_c3_h9_w9_k3_r3_s3_st1_pd1_dl1_g3",
    "n1_c18_h12_w12_k18_r7_s7_st1_pd3_dl1_g18",
    "n1_c9_h1_w20_k9_r1_s9_st1_pd0x4_dl1_g9",
    "n1_c17_h11_w9_k17_r3_s5_st2x1_pd1x2x0x3_dl2x1_g17",
    "n1_c8_h9_w9_k8_r2_s2_st3_pd0_dl1_g8",
    "n1_c8_h7_w7_k8_r3_s3_st1_pd-1x0x-1x1_dl1_g8",
    "n1_c8_h5_w5_k24_r3_s3_st1_pd1_dl1_g8",  # a multiplier: k == 3 c
    "n1_c32_h7_w7_k32_r3_s3_st1_pd1_dl1_g4",  # groups of 8
    "n1_c40_h8_w9_k40_r3_s3_st2_pd1_dl1_g5",
    "n1_c48_h6_w7_k96_r3_s3_st1_pd1_dl1_g12",  # 4 -> 8
    "n1_c96_h6_w7_k48_r3_s3_st1_pd1_dl1_g12",  # 8 -> 4
    "n1_c36_h6_w7_k36_r3_s3_st1_pd1_dl1_g12",  # groups of 3: no power of two
    "n1_c35_h6_w7_k25_r3_s3_st1_pd1_dl1_g5",  # 7 -> 5
    "n1_c38_h6_w7_k38_r3_s3_st1_pd1_dl1_g19",  # groups of 2, their last block overlapping
    "n1_c40_h6_w7_k40_r1_s1_st1_pd0_dl1_g10",
    "n1_c34_h6_w7_k34_r3_s3_st1_pd1_dl1_g2",  # groups of 17: wider than any vector
    "n1_c32_h7_w9_k64_r5_s5_st1_pd2_dl1_g32",
    "n1_c32_h9_w9_k32_r3_s3_st1_pd2_dl2_g8",
    "n1_c20_h9_w21_k37_r1_s7_st1_pd0x3_dl1_g1",  # one direction only
    "n1_c20_h21_w5_k37_r7_s1_st1_pd3x0_dl1_g1",
    "n1_c33_h9_w8_k18_r5_s5_st1_pd2_dl1_g1",
    "n1_c9_h11_w12_k18_r7_s7_st1_pd3_dl1_g1",
    "n1_c16_h13_w10_k50_r3_s3_st2_pd1_dl1_g1",
    "n1_c17_h14_w9_k19_r5_s3_st2x1_pd2x0x1x1_dl1_g1",
    "n1_c34_h9_w9_k66_r3_s3_st1_pd1_dl1_g1",
    "n1_c160_h6_w5_k35_r3_s3_st1_pd1_dl1_g1",  # more channels than are summed in one chain
)


def odd_cases(algorithm: Algorithm, isa: str) -> Iterator[Case]:
    machine = machine_of(isa)
    for number, text in enumerate(ODD):
        spec = ConvSpec.parse(text).with_epilogue(Epilogue(bias=number % 2 == 0, after=RELU if number % 3 else None))
        if algorithm.refuse(spec, machine) is None:
            x = ("dense", "concat", "dense" if spec.is_pointwise else "crop")[number % 3]
            y = ("dense", "concat")[number // 3 % 2]
            configs = one_of_each_order(algorithm.configs(spec, machine))
            for config in configs if isa == "avx512" else [configs[number % len(configs)]]:
                yield Case(algorithm.name, isa, spec, config, x, y)


def one_of_each_order(configs: list[Any]) -> list[Any]:
    """The best config of each order of work, and of each size of tile in the transform domain, that there is.

    All of them on the widest vectors, on the others a different one for each layer: they take long to compile.
    """
    found: dict[Any, Any] = {}
    for config in configs:
        found.setdefault((getattr(config, "order", ""), getattr(config, "m", 0)), config)
    return list(found.values())


# ---- epilogues ------------------------------------------------------------------------------------------------------
EPILOGUES = (
    Epilogue(),
    Epilogue(bias=True),
    Epilogue(before=CLIP),
    Epilogue(residual=True),
    Epilogue(bias=True, after=LEAKY),
    Epilogue(bias=True, residual=True, after=RELU),
    Epilogue(bias=True, before=RELU, residual=True, after=HARD_SWISH),
    Epilogue(bias=True, after=GELU),
    Epilogue(bias=True, before=SILU, residual=True),
)


def epilogue_cases(algorithm: Algorithm, isa: str) -> Iterator[Case]:
    """Every epilogue, on the narrowest and the widest vectors every one, else what has all parts."""
    machine = machine_of(isa)
    lanes = machine.lanes()
    shapes = (
        ConvSpec(1, 5, 4, 5, lanes + 3, 1, 1),
        ConvSpec(1, 5, 5, 4, lanes + 3, 3, 3, pad=(1, 1, 1, 1)),
        ConvSpec(1, lanes + 3, 4, 9, lanes + 3, 3, 3, pad=(1, 1, 1, 1), groups=lanes + 3),
        ConvSpec(1, 2 * lanes + 4, 4, 9, 2 * lanes + 4, 3, 3, pad=(1, 1, 1, 1), groups=lanes + 2),
        ConvSpec(1, 10, 4, 9, 2 * lanes + 6, 3, 3, pad=(1, 1, 1, 1), groups=2),
    )
    for shape in shapes:
        if algorithm.refuse(shape, machine) is not None or (algorithm is REGISTRY[-1] and shape.groups > 1):
            continue
        for number, epilogue in enumerate(EPILOGUES):
            if isa in ("avx512", "sse2", "neon") or (epilogue.before and epilogue.after):
                spec = shape.with_epilogue(epilogue)
                layouts = ("concat", "concat") if number % 2 else ("dense", "dense")
                yield Case(algorithm.name, isa, spec, algorithm.configs(spec, machine)[0], *layouts)
