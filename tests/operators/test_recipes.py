"""What kernels depend on: not the batch, not the data; and that every described machine gets them."""

from __future__ import annotations

import re

import numpy as np
import pytest

from waterline.codegen.cpu.jit import compile_assembly
from waterline.graph.ops import (
    AdaptivePool,
    Binary,
    Concat,
    GroupNorm,
    LayerNorm,
    LocalResponseNorm,
    MatMul,
    Op,
    Pad,
    Pool,
    PRelu,
    Reduce,
    Resize,
    Slice,
    Softmax,
    Transpose,
    Unary,
)
from waterline.machine import CATALOGUE, Machine
from waterline.operators import lower
from waterline.spec import Activation

from .harness import LOCAL, Case, execute, nhwc

IMAGE = (20, 9, 8)
PARAMETERS = ((20,), (20,))
# Operations whose every input with a batch has it on axis 0, and the shapes of one image and of the constants.
BATCHED: list[tuple[Op, list[tuple[int, ...]], list[tuple[int, ...]]]] = [
    (Unary(Activation("gelu")), [IMAGE], []),
    (Binary("add"), [IMAGE, IMAGE], []),
    (Binary("mul"), [IMAGE, (20, 1, 1)], []),
    (PRelu(), [IMAGE], [(20, 1, 1)]),
    (Pool("max", (3, 3), (2, 2), (1, 1, 1, 1)), [IMAGE], []),
    (AdaptivePool("average"), [IMAGE], []),
    (Reduce("mean", (1, 3)), [IMAGE], []),
    (GroupNorm(4), [IMAGE], [*PARAMETERS]),
    (LayerNorm(3), [(9, 8, 20)], [*PARAMETERS]),
    (LocalResponseNorm(5), [IMAGE], []),
    (Softmax(1), [IMAGE], []),
    (Softmax(1), [(1000,)], []),
    (Concat(1), [IMAGE, IMAGE], []),
    (Slice((1,), (3,), (11,), (2,)), [IMAGE], []),
    (Pad((0, 0, 1, 1), (0, 0, 1, 1)), [IMAGE], []),
    (Pad((0, 0, 1, 1), (0, 0, 1, 1), "reflect"), [IMAGE], []),
    (Resize("linear", (13, 5)), [IMAGE], []),
    (Resize("nearest", (18, 16)), [IMAGE], []),
    (MatMul(), [(9, 20)], [(20, 30)]),
    (MatMul(), [(20,)], [(20, 30)]),
    (Transpose((0, 2, 3, 1)), [IMAGE], []),
]


def views(op: Op, images, constants, batch: int):
    shapes = [(batch, *image) for image in images] + list(constants)
    return shapes, [nhwc(shape) for shape in shapes], nhwc(op.infer(shapes)[0])


@pytest.mark.parametrize(("op", "images", "constants"), BATCHED, ids=lambda value: str(value)[:60])
def test_a_batch_compiles_nothing_and_changes_nothing(op: Op, images, constants) -> None:
    """Kernels of batches of 1 and 3 are the same, and so are the bits of an image alone and among others."""
    random = np.random.default_rng(11)
    shapes, inputs, output = views(op, images, constants, 3)
    arrays = [random.standard_normal(shape).astype(np.float32) for shape in shapes]
    calls = lower(op, inputs, [output], LOCAL)
    together = execute(calls, arrays, inputs, output, LOCAL)
    _, inputs_alone, output_alone = views(op, images, constants, 1)
    calls_alone = lower(op, inputs_alone, [output_alone], LOCAL)
    assert [call.kernel for call in calls] == [call.kernel for call in calls_alone]
    for n in range(3):
        one = [array[n : n + 1] if i < len(images) else array for i, array in enumerate(arrays)]
        alone = execute(calls_alone, one, inputs_alone, output_alone, LOCAL)
        assert alone.tobytes() == together[n : n + 1].tobytes()


@pytest.mark.parametrize("machine", CATALOGUE, ids=lambda machine: machine.name)
def test_every_machine(machine: Machine) -> None:
    """Each operation is emitted for each described machine; nothing is called but, perhaps, to write zeros."""
    for op, images, constants in BATCHED:
        _, inputs, output = views(op, images, constants, 1)
        for call in lower(op, inputs, [output], machine):
            assembly = compile_assembly(call.kernel.emit("kernel", machine), machine)
            called = set(re.findall(r"^\s+(?:callq?|bl)\s+([\w.]+)", assembly, re.M))
            assert called <= {"memset"}, (op, called)
            assert call.items >= 1
            assert call.chunk >= 1


def test_recipes_collapse() -> None:
    """Shapes that are the same loops are the same kernel."""
    relu = Unary(Activation("relu"))

    def kernel(shape):
        return lower(relu, [nhwc(shape)], [nhwc(shape)], LOCAL)[0].kernel

    assert kernel((1, 64, 4, 9)) == kernel((1, 64, 6, 6)) == kernel((2, 64 * 36))
    assert kernel((1, 64, 6, 6)).emit("k", LOCAL) == kernel((1, 64, 6, 6)).emit("k", LOCAL)


@pytest.mark.parametrize(
    ("case", "wanted", "forbidden"),
    [
        (Case(Pad((0, 0, 3, 3), (0, 0, 3, 3)), ((1, 3, 224, 224),), ("dense",), "nhwc"), "vpermt2ps", "vinsertps"),
        (Case(Transpose((0, 1, 2, 3)), ((1, 64, 56, 56),), ("dense",), "nhwc"), "vunpcklps", "vinsertps"),
        (Case(Pool("max", (3, 3), (2, 2), (1, 1, 1, 1)), ((1, 64, 112, 112),)), "vmaxps", "vinsertps"),
        (Case(LayerNorm(3), ((1, 56, 56, 96), (96,), (96,)), ("dense",)), "vfmadd", "vinsertps"),
        (Case(AdaptivePool("average"), ((1, 2048, 7, 7),)), "vaddps", "vinsertps"),
    ],
    ids=str,
)
def test_instructions(case: Case, wanted: str, forbidden: str) -> None:
    machine = CATALOGUE[0]
    (call,) = lower(case.op, case.views(), [case.output()], machine)
    assembly = compile_assembly(call.kernel.emit("kernel", machine), machine)
    assert wanted in assembly
    assert forbidden not in assembly
    assert not re.search(r"zmm\d+, -?\d+\(%rsp\)", assembly), "vectors are spilled"
