"""The instructions of the kernels that the planner chooses, for every machine of the catalogue, wherever this runs.

Hot loops use the machine's multiply-add on its whole vectors, nothing that the machine does not have, and no stack.
"""

from __future__ import annotations

import re

import pytest
from assembly import FORBIDDEN, MULTIPLY_ADD, functions, hottest_loop, innermost_loops

from waterline.algorithms import REGISTRY, Algorithm, GemmConfig, Views, by_name
from waterline.algorithms.block_fusion import BLOCK_FUSION
from waterline.algorithms.block_fusion.cpu import BlockKernel
from waterline.algorithms.block_fusion.model import BlockViews
from waterline.algorithms.blocking import MOST_ROWS
from waterline.codegen.cpu.jit import compile_assembly
from waterline.codegen.cpu.kernel import Kernel
from waterline.graph.block import BlockLayer, BlockSpec
from waterline.graph.ops import Conv, LayerNorm
from waterline.machine import CATALOGUE, Machine
from waterline.spec import Activation, ConvSpec, Epilogue, TensorView, channels_last

RELU = Epilogue(bias=True, after=Activation("relu"))
LISTED = {
    "direct_gemm": (
        "n1_c64_h56_w56_k256_r1_s1_st1_pd0_dl1_g1",
        "n1_c16_h112_w112_k96_r1_s1_st1_pd0_dl1_g1",
        "n1_c2048_h7_w7_k512_r1_s1_st1_pd0_dl1_g1",
        "n1_c2048_h1_w1_k1000_r1_s1_st1_pd0_dl1_g1",
    ),
    "indirect": (
        "n1_c64_h56_w56_k64_r3_s3_st1_pd1_dl1_g1",
        "n1_c512_h7_w7_k512_r3_s3_st1_pd1_dl1_g1",
        "n1_c3_h230_w230_k64_r7_s7_st2_pd0_dl1_g1",
        "n1_c256_h56_w56_k512_r1_s1_st2_pd0_dl1_g1",
    ),
    "depthwise": (
        "n1_c144_h56_w56_k144_r3_s3_st1_pd1_dl1_g144",
        "n1_c96_h112_w112_k96_r3_s3_st2_pd1_dl1_g96",
        "n1_c960_h7_w7_k960_r3_s3_st1_pd1_dl1_g960",
        "n1_c96_h56_w56_k96_r7_s7_st1_pd3_dl1_g96",
    ),
    "grouped": (
        "n1_c128_h56_w56_k128_r3_s3_st1_pd1_dl1_g16",  # group width 8
        "n1_c128_h56_w56_k128_r5_s5_st1_pd2_dl1_g16",
        "n1_c128_h28_w28_k128_r3_s3_st2_pd1_dl1_g32",
        "n1_c128_h28_w28_k128_r3_s3_st1_pd1_dl1_g8",
        "n1_c64_h28_w28_k128_r3_s3_st1_pd1_dl1_g64",  # a channel multiplier
    ),
}
LAYERS = [(name, text) for name, texts in LISTED.items() for text in texts]

every_machine = pytest.mark.parametrize("machine", CATALOGUE, ids=lambda m: m.name)


def views_of(spec: ConvSpec) -> Views:
    order = channels_last(4)
    out = TensorView.dense((spec.n, spec.k, spec.p, spec.q), order)
    x = TensorView.dense((spec.n, spec.c, spec.h, spec.w), order)
    return Views(x, out, out if spec.epilogue.residual else None)


def kernels(algorithm: Algorithm, spec: ConvSpec, machine: Machine, config: object = None) -> list[Kernel]:
    config = config or algorithm.configs(spec, machine)[0]
    return [call.kernel for call in algorithm.implement(spec, config, views_of(spec), machine).calls]


def assembly_of(kernel: Kernel, machine: Machine) -> str:
    return compile_assembly(kernel.emit("kernel", machine), machine)


@pytest.mark.parametrize(("name", "text"), LAYERS, ids=lambda v: v)
@every_machine
def test_hot_loops_multiply_whole_vectors_in_registers(machine: Machine, name: str, text: str):
    spec = ConvSpec.parse(text).with_epilogue(RELU)
    (kernel,) = kernels(by_name(name), spec, machine)
    loop = hottest_loop(assembly_of(kernel, machine), machine)
    lines = "\n".join(loop.lines)
    assert loop.count(MULTIPLY_ADD[machine.isa]) >= 8, lines
    assert not loop.spills(), f"{kernel}\n{lines}"
    assert not re.search(r"^\s*(call|bl)\b", lines, re.MULTILINE), lines


@pytest.mark.parametrize("machine", {m.isa: m for m in CATALOGUE}.values(), ids=lambda m: m.isa)
def test_the_tiles_that_may_be_chosen_stay_in_registers(machine: Machine):
    """The tallest tile of each width; see `MOST_ROWS`."""
    for vectors, rows in enumerate(MOST_ROWS[machine.isa], 1):
        for unroll in (2, 4):
            config = GemmConfig(rows, vectors, unroll, 4, False)
            for name, text in LAYERS[:1] + LAYERS[4:5]:
                (kernel,) = kernels(by_name(name), ConvSpec.parse(text), machine, config)
                loop = hottest_loop(assembly_of(kernel, machine), machine)
                assert loop.count(MULTIPLY_ADD[machine.isa]) >= rows * vectors * unroll
                assert not loop.spills(), f"{name} {config}\n" + "\n".join(loop.lines)


@pytest.mark.parametrize("algorithm", REGISTRY, ids=lambda a: a.name)
@every_machine
def test_only_instructions_that_the_machine_has(machine: Machine, algorithm: Algorithm):
    full = Epilogue(bias=True, before=Activation("relu"), residual=True, after=Activation("gelu"))
    texts = (
        "n1_c20_h9_w9_k35_r1_s1_st1_pd0_dl1_g1",
        "n1_c20_h9_w9_k35_r3_s3_st1_pd1_dl1_g1",
        "n1_c35_h9_w9_k35_r3_s3_st1_pd1_dl1_g35",
        "n1_c40_h9_w9_k40_r3_s3_st1_pd1_dl1_g20",
    )
    text = next(t for t in texts if algorithm.refuse(ConvSpec.parse(t), machine) is None)
    for kernel in kernels(algorithm, ConvSpec.parse(text).with_epilogue(full), machine):
        for line in assembly_of(kernel, machine).splitlines():
            assert not re.search(FORBIDDEN[machine.isa], line), line


@every_machine
def test_a_kernel_has_one_entry_and_calls_nothing_outside(machine: Machine):
    """No call of a library: an object is complete in itself, except for memset and memcpy, which LLVM may form."""
    spec = ConvSpec.parse(LISTED["indirect"][0]).with_epilogue(RELU)
    text = assembly_of(kernels(by_name("indirect"), spec, machine)[0], machine)
    assert re.findall(r"^\s*\.globl\s+(\S+)", text, re.MULTILINE) == ["kernel"]
    called = set(re.findall(r"^\s*(?:callq?|bl)\s+([\w.]+)", text, re.MULTILINE))
    assert called <= set(functions(text)) | {"memset", "memcpy"}


# ---- blocks ---------------------------------------------------------------------------------------------------------
def pointwise(c: int, k: int, size: int, epilogue: Epilogue = RELU) -> ConvSpec:
    return ConvSpec(1, c, size, size, k, 1, 1, epilogue=epilogue)


def same(c: int, size: int, filters: int, groups: int, epilogue: Epilogue = RELU) -> ConvSpec:
    return ConvSpec(1, c, size, size, c, filters, filters, pad=(filters // 2,) * 4, groups=groups, epilogue=epilogue)


def chain(*specs: ConvSpec | None) -> BlockSpec:
    """Each layer reads the one before; None is a normalisation over channels; a residual is what enters the block."""
    has_norm = None in specs
    layers: list[BlockLayer] = []
    for number, spec in enumerate(specs):
        before = (2 * has_norm + number if number else 0,)
        if spec is None:
            layers.append(BlockLayer(LayerNorm(3), (*before, 1, 2), layers[-1].output))
        else:
            inputs = (*before, 0) if spec.epilogue.residual else before
            layers.append(BlockLayer(Conv(epilogue=spec.epilogue), inputs, (1, spec.k, spec.p, spec.q), spec))
    first, c = layers[0].spec, layers[0].output[1]
    assert first is not None
    return BlockSpec(((1, first.c, first.h, first.w), *[(c,)] * (2 * has_norm)), tuple(layers))


# Every kind of layer that has multiply-adds, and a normalisation between; its strips fit the smallest cache.
BLOCK = chain(
    same(32, 14, 3, 1),
    same(32, 14, 7, 32),
    None,
    same(32, 14, 3, 4),
    pointwise(32, 128, 14, Epilogue(bias=True, after=Activation("gelu"))),
    pointwise(128, 32, 14, Epilogue(bias=True, residual=True)),
)


def block_kernel(block: BlockSpec, machine: Machine) -> BlockKernel:
    def view(shape: tuple[int, ...]) -> TensorView:
        return TensorView.dense(shape, channels_last(4)) if len(shape) == 4 else TensorView.dense(shape)

    views = BlockViews(tuple(view(shape) for shape in block.inputs), view(block.output))
    assert BLOCK_FUSION.refuse(block, machine) is None
    config = BLOCK_FUSION.configs(block, machine)[0]
    (call,) = BLOCK_FUSION.implement(block, config, views, machine).calls
    assert isinstance(call.kernel, BlockKernel)
    return call.kernel


@every_machine
def test_every_layer_of_a_block_multiplies_whole_vectors_in_registers(machine: Machine):
    """A function for each layer, with the hot loop that the layer has alone, and no call in it."""
    text = assembly_of(block_kernel(BLOCK, machine), machine)
    assert re.findall(r"^\s*\.globl\s+(\S+)", text, re.MULTILINE) == ["kernel"]
    for line in text.splitlines():
        assert not re.search(FORBIDDEN[machine.isa], line), line
    called = set(re.findall(r"^\s*(?:callq?|bl)\s+([\w.]+)", text, re.MULTILINE))
    assert called <= set(functions(text)) | {"memset", "memcpy"}
    loops = innermost_loops(text)
    for number, layer in enumerate(BLOCK.layers):
        own = [loop for loop in loops if re.fullmatch(rf"kernel_stage{number}(_\w+)?", loop.function)]
        assert own, f"no function for {layer.label}: {sorted(functions(text))}"
        if layer.spec is None:
            continue
        loop = max(own, key=lambda each: each.count(MULTIPLY_ADD[machine.isa]))
        lines = "\n".join(loop.lines)
        assert loop.count(MULTIPLY_ADD[machine.isa]) >= 8, f"{layer.label}\n{lines}"
        assert not loop.spills(), f"{layer.label}\n{lines}"
        assert not re.search(r"^\s*(call|bl)\b", lines, re.MULTILINE), f"{layer.label}\n{lines}"


# ---- the reader itself ----------------------------------------------------------------------------------------------
X86 = """
f:
.LBB0_1:
	vmovups	%zmm1, 64(%rsp)  # 64-byte Spill
.LBB0_2:
	vfmadd231ps	%zmm1, %zmm2, %zmm3
	vfmadd231ps	-64(%rsp), %zmm2, %zmm4
	movq	8(%rsp), %rax
	jne	.LBB0_2
	jmp	.LBB0_1
.LBB0_3:
	jmp	.LBB0_4
.LBB0_4:
	ret
"""
ARM = """
f:
.LBB0_1:
	fmla	v0.4s, v1.4s, v2.s[0]
	ldr	q3, [sp, #16]
	ldr	x3, [sp, #32]
	cbnz	x8, .LBB0_1
	b.ne	.LBB0_1
	tbnz	w9, #3, .LBB0_1
"""


def test_the_reader_of_assembly():
    (loop,) = innermost_loops(X86)
    assert loop.lines[0] == ".LBB0_2:"
    assert loop.count(MULTIPLY_ADD["avx512"]) == 2
    assert loop.spills() == ["vfmadd231ps	-64(%rsp), %zmm2, %zmm4"]
    loops = innermost_loops(ARM)
    assert loops[0].count(MULTIPLY_ADD["neon"]) == 1
    assert loops[0].spills() == ["ldr	q3, [sp, #16]"]
