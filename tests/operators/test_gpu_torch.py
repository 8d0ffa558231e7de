"""PyTorch's operators on strided tensors between guards, against the reference; here they run on a CPU.

What a GPU asks for beside right results is checked on tensors without memory: nothing is read back by the host or made
by it in a second call, so a CUDA graph can record it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from waterline.errors import InvalidArgument, InvalidModel
from waterline.graph import ops
from waterline.graph.ops import (
    BINARY_KINDS,
    COORDINATES,
    END,
    ROUNDINGS,
    AdaptivePool,
    BatchNorm,
    Binary,
    Concat,
    Conv,
    Expand,
    GroupNorm,
    LayerNorm,
    LocalResponseNorm,
    MatMul,
    Op,
    Pad,
    Pool,
    PRelu,
    Reduce,
    Reshape,
    Resize,
    Slice,
    Softmax,
    Transpose,
    Unary,
)
from waterline.operators import gpu_torch
from waterline.reference import compare, evaluate
from waterline.spec import ACTIVATIONS, Activation, TensorView

from .harness import LAYOUTS, Case, with_specials
from .test_elementwise import SPECIAL
from .test_fuzz import cases
from .test_movement import BORDERS
from .test_normalisation import RESPONSES
from .test_recipes import BATCHED
from .test_windows import POOLS, REDUCTIONS

SECONDS = float(os.environ.get("WATERLINE_FUZZ_SECONDS", "5"))
EXAMPLES_PER_SECOND = 60
GUARD_ELEMS = 64
TYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
STORE_EPS = {"f32": 2.0**-24, "f16": 2.0**-11, "bf16": 2.0**-8}
TINY = {"f32": 2.0**-126, "f16": 2.0**-24, "bf16": 2.0**-126}
PARAMS = {
    "leaky_relu": (0.1,),
    "clip": (-0.5, 1.0),
    "hard_sigmoid": (0.2, 0.5),
    "elu": (0.7,),
    "selu": (1.6733, 1.0507),
}
FUNCTIONS = [Activation(kind, PARAMS.get(kind, ())) for kind in ACTIVATIONS]
SHAPE = (2, 19, 5, 7)
CONVOLUTIONS = {ops.Conv, ops.ConvTranspose, ops.Linear}
SERVED = {
    each
    for each in vars(ops).values()
    if isinstance(each, type) and issubclass(each, Op) and each is not Op and each not in CONVOLUTIONS
}


def case(op: Op, *shapes: tuple[int, ...]) -> Case:
    return Case(op, shapes)


NORMALISATIONS = [
    case(BatchNorm(), SHAPE, *((19,),) * 4),
    case(BatchNorm(0.1), (3, 5), *((5,),) * 4),
    case(BatchNorm(), (1, 3, 4), *((3,),) * 4),
    case(LayerNorm(3), (2, 5, 7, 33), (33,), (33,)),
    case(LayerNorm(1, bias=False), (2, 9, 5, 7), (9, 5, 7)),
    case(LayerNorm(2, 0.01), (2, 9, 5, 7), (5, 7), (5, 7)),
    case(LayerNorm(0), (5, 11), (5, 11), (5, 11)),
    case(LayerNorm(0), (1,), (1,), (1,)),
    *(case(GroupNorm(groups), (2, 24, 5, 7), (24,), (24,)) for groups in (1, 3, 24)),
    case(GroupNorm(4, 0.1), (2, 24), (24,), (24,)),
    case(GroupNorm(5), (1, 5), (5,), (5,)),
    case(GroupNorm(2), (3, 6, 9), (6,), (6,)),
    *(case(op, SHAPE) for op in RESPONSES),
    case(RESPONSES[0], (2, 3, 5)),
    case(RESPONSES[3], (3, 1)),
    case(LocalResponseNorm(2, beta=0.5), (3, 2)),
    *(case(Softmax(axis, log), SHAPE) for axis in range(4) for log in (False, True)),
    case(Softmax(0), (1000,)),
]
OTHERS = [(2, 19, 5, 7), (2, 19, 1, 1), (1, 19, 1, 1), (19, 1, 1), (), (1,), (2, 1, 5, 7), (7,), (5, 1), (2, 1, 1, 1)]
ELEMENTWISE = [
    *(case(Unary(function), SHAPE) for function in FUNCTIONS),
    *(case(Unary(Activation("gelu")), shape) for shape in ((), (1,), (40,), (1, 1), (1, 2, 3, 2, 2))),
    *(case(Binary(kind, after), SHAPE, SHAPE) for kind in BINARY_KINDS for after in (None, Activation("relu"))),
    *(case(Binary("mul", function), (3, 5), (3, 5)) for function in FUNCTIONS),
    *(case(Binary("sub"), SHAPE, other) for other in OTHERS),
    *(case(Binary("sub", Activation("tanh")), other, SHAPE) for other in OTHERS),
    case(Binary("add"), (3, 1, 5), (4, 1)),
    case(Binary("pow"), (), ()),
    case(PRelu(), SHAPE, (19, 1, 1)),
    case(PRelu(), SHAPE, ()),
    case(PRelu(), (4, 6), (4, 6)),
]
WINDOWS = [
    *(case(op, (2, 19, 7, 5)) for op in (*POOLS, *REDUCTIONS)),
    case(Pool("max", (1, 1), (4, 4)), (1, 20, 9, 1)),
    case(Pool("max", (2, 2), (5, 5)), (1, 2, 9, 13)),  # windows that leave out the end of the image
    case(Pool("average", (3, 3), (5, 5), (1, 1, 1, 1)), (1, 3, 1, 1)),
    case(Pool("average", (3, 2), (2, 3), (2, 1, 0, 1), (2, 3), True), (1, 3, 9, 8)),
    case(Pool("average", (3, 2), (2, 3), (2, 1, 0, 1), (2, 3), True, True), (1, 3, 9, 8)),
    case(Pool("lp", (3, 2), (2, 1), (1, 0, 2, 1), (1, 2), True, norm=4), (1, 3, 6, 7)),
    *(case(Pool(kind, (2, 2), (1, 1), (1, 1, 1, 1)), (1, 2, 0, 3)) for kind in ("max", "lp", "average")),
    case(AdaptivePool("average", (7, 3)), (1, 2, 1, 4)),
    case(Reduce("sum", (1, 3), False), (2, 3, 4, 5)),
    *(case(Reduce(kind, (), False), (2, 3)) for kind in ("sum", "mean", "max", "min", "l2")),
    case(Reduce("l2", ()), ()),
    *(case(Reduce(kind, (1,)), (3, 0)) for kind in ("sum", "mean", "l2")),
    case(Reduce("mean", (0,)), (70001,)),
]
MATRICES = [
    case(MatMul(), *shapes)
    for shapes in (
        ((3, 4), (4, 5)),
        ((1, 1), (1, 1)),
        ((7, 33), (33, 17)),
        ((2, 3, 13, 8), (8, 40)),
        ((2, 3, 13, 8), (2, 3, 8, 4)),
        ((8,), (8, 5)),
        ((8,), (2, 8, 5)),
        ((3, 8), (8,)),
        ((8,), (8,)),
        ((2, 3, 8), (8,)),
        ((5, 6), (3, 6, 7)),
        ((2, 1, 5, 6), (3, 6, 7)),
        ((3, 0), (0, 4)),
        ((2, 3, 0), (2, 0, 4)),
    )
]
MOVEMENT = [
    *(case(op, (2, 4, 5, 6)) for op in BORDERS),
    case(Pad((0, 0, 1, 1), (0, 0, 1, 1), value=3.0), (2, 3, 0, 0)),
    case(Pad((0, 0, 1, 1), (0, 0, 1, 1), "edge", 3.0), (2, 3, 0, 4)),
    case(Pad((4, -7), (-7, 4)), (5, 5)),
    case(Pad((), ()), ()),
    *(case(Transpose(perm), (2, 17, 5, 6)) for perm in itertools.permutations(range(4))),
    case(Transpose((0, 1, 2, 4, 3)), (2, 5, 6, 3, 9)),
    case(Transpose(()), ()),
    case(Slice((1,), (3,), (END,), (1,)), SHAPE),
    case(Slice((1, 2), (0, -1), (END, -END - 1), (2, -1)), SHAPE),
    case(Slice((0,), (1,), (2,), (1,)), SHAPE),
    case(Slice((3,), (-1,), (-END - 1,), (-2,)), SHAPE),
    case(Slice((3, 1), (5, 12), (0, -END - 1), (-3, -5)), SHAPE),
    case(Slice((), (), (), ()), SHAPE),
    *(
        case(Concat(axis), *(tuple(size if i == axis else d for i, d in enumerate((2, 5, 3, 4))) for size in sizes))
        for axis in range(4)
        for sizes in ((5, 1, 7), (3,), (0, 2))
    ),
    *(
        case(Expand(to), shape)
        for shape, to in (
            ((4, 1), (3, 2, 4, 5)),
            ((1,), (7,)),
            ((), (2, 3)),
            ((2, 1, 1, 5), (2, 3, 4, 5)),
            ((3, 4), (1, 1)),
        )
    ),
    *(
        case(Reshape(to), shape)
        for shape, to in (
            ((2, 3, 4, 5), (0, -1)),
            ((2, 3, 4, 5), (0, 12, 5)),
            ((2, 6, 2, 2), (0, 4, 3, 2)),
            ((24,), (2, 3, 4)),
            ((1, 1), ()),
            ((2, 8, 3, 3), (0, 2, 2, 2, 3, 3)),
        )
    ),
]
RESIZING = [
    *(
        case(Resize(mode, coordinates=coordinates, **factor), (2, 3, 5, 7))
        for mode in ("nearest", "linear", "cubic")
        for coordinates in COORDINATES
        for factor in ({"size": (9, 4)}, {"scale": (0.6, 2.0)}, {"size": (1, 1)}, {"size": (5, 7)})
    ),
    *(case(Resize("nearest", (7, 13), rounding=rounding), (1, 3, 4, 6)) for rounding in ROUNDINGS),
    case(Resize("cubic", (7, 13), cubic_coefficient=-0.5), (1, 3, 1, 6)),
]
OF_NETWORKS = [
    case(op, *((2, *shape) for shape in images), *(tuple(shape) for shape in constants))
    for op, images, constants in BATCHED
]
CASES = [*ELEMENTWISE, *NORMALISATIONS, *WINDOWS, *MATRICES, *MOVEMENT, *RESIZING, *OF_NETWORKS]


# ---- running --------------------------------------------------------------------------------------------------------
def placed(view: TensorView, kind: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Memory full of NaN, and the tensor in it that lies as `view` says."""
    memory = torch.full((view.span_elems + 2 * GUARD_ELEMS,), torch.nan, dtype=kind)
    return memory, memory.as_strided(view.shape, view.strides, GUARD_ELEMS)


def check(
    case: Case,
    *kinds: str,
    output_kind: str = "",
    arrays: Sequence[np.ndarray] | None = None,
    relative: float = 1e-6,
    absolute: float = 2e-6,
) -> None:
    """Computes the case and compares.

    Args:
        kinds: types of the inputs; the last is that of all that follow. output_kind: of the output, else the first's.
        relative, absolute: the error allowed before the result is rounded to its type.
    """
    arrays = case.arrays() if arrays is None else arrays
    kinds = kinds + (kinds[-1],) * (len(arrays) - len(kinds))
    output_kind = output_kind or kinds[0]
    inputs = [placed(view, TYPES[kind])[1] for view, kind in zip(case.views(), kinds, strict=False)]
    for x, array in zip(inputs, arrays, strict=True):
        x.copy_(torch.from_numpy(np.asarray(array)))
    memory, output = placed(case.output(), TYPES[output_kind])
    guards = torch.ones(memory.shape, dtype=torch.bool)
    guards.as_strided(output.shape, output.stride(), GUARD_ELEMS).fill_(False)

    gpu_torch.evaluate(case.op, inputs, [output])

    assert memory[guards].isnan().all(), "written outside the tensor"
    expected = evaluate(case.op, [x.double().numpy() for x in inputs])
    bound = absolute + TINY[output_kind] + (relative + STORE_EPS[output_kind]) * np.abs(expected)
    actual = output.numpy() if output_kind == "f16" else output.float().numpy()
    found = compare(actual, expected, bound)
    assert found.is_within, str(found)


def positive(case: Case) -> list[np.ndarray]:
    """Inputs whose variances and roots are real, some of them large."""
    return [np.abs(array) + np.float32(0.5) for array in case.arrays()]


@pytest.mark.filterwarnings("ignore:Mean of empty slice", "ignore:invalid value", "ignore:overflow")
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("each", CASES, ids=str)
def test_cases(each: Case, kind: str) -> None:
    """Every case from and to a layout of its own, the next one for the next case."""
    pairs = list(itertools.product(LAYOUTS, LAYOUTS))
    source, target = pairs[CASES.index(each) % len(pairs)]
    for layouts, to in (((source, target), target), ((target, source), "gapped")):
        layouts = layouts[: len(each.shapes)]
        check(dataclasses.replace(each, layouts=layouts, output_layout=to), kind, arrays=positive(each))
    check(each, kind, relative=1e-5, absolute=1e-5)


@pytest.mark.parametrize("kind", ["f16", "bf16"])
@pytest.mark.parametrize("each", [each for each in CASES if len(each.shapes) > 1], ids=str)
def test_constants_in_f32(each: Case, kind: str) -> None:
    check(each, kind, "f32", arrays=positive(each))


@pytest.mark.filterwarnings("ignore:Mean of empty slice", "ignore:invalid value", "ignore:overflow")
@pytest.mark.parametrize("kind", ["f16", "bf16"])
@pytest.mark.parametrize("each", CASES, ids=str)
def test_nothing_is_rounded_before_the_output(each: Case, kind: str) -> None:
    """Halves into f32, with the error of f32; on a CPU, matrices of halves are multiplied in f32 as well."""
    check(each, kind, output_kind="f32", arrays=positive(each), relative=2e-6, absolute=1e-5)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("op", [*POOLS, *REDUCTIONS, *BORDERS, Resize("linear", (9, 3)), Softmax(1), GroupNorm(19)])
def test_layouts(op: Op, layout: str, kind: str) -> None:
    parameters = ((19,), (19,)) if isinstance(op, GroupNorm) else ()
    layouts = (layout, "dense")[: 1 + len(parameters)]
    for to in LAYOUTS:
        check(Case(op, ((2, 19, 7, 6), *parameters), layouts, to), kind, relative=1e-5, absolute=1e-5)


def test_any_case() -> None:
    @settings(
        max_examples=max(1, int(SECONDS * EXAMPLES_PER_SECOND)),
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(cases(), st.sampled_from(list(TYPES)), st.sampled_from(list(TYPES)))
    def run(each: Case, kind: str, others: str) -> None:
        try:
            each.output()
        except InvalidModel:
            return
        check(each, kind, others, relative=1e-4, absolute=1e-4)

    run()


# ---- special values -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("function", FUNCTIONS, ids=str)
def test_special_values(function: Activation) -> None:
    values = np.concatenate([SPECIAL, np.float32([89, -89, 30, -30, 7, -7, 0.5, 6e4, -6e4])])
    for kind in ("f32", "bf16"):
        check(Case(Unary(function), (values.shape,), ("dense",)), kind, arrays=[values])


@pytest.mark.parametrize("after", [None, Activation("relu")])
@pytest.mark.parametrize("kind", BINARY_KINDS)
def test_special_values_of_two(kind: str, after: Activation | None) -> None:
    a, b = (grid.reshape(1, -1) for grid in np.meshgrid(SPECIAL, SPECIAL))
    check(Case(Binary(kind, after), (a.shape, b.shape), ("dense",)), "f32", arrays=[a, b], absolute=0.0)


@pytest.mark.parametrize(
    "op",
    [
        *POOLS,
        *(op for op in REDUCTIONS if op.kind in ("max", "min")),
        *RESPONSES,
        Softmax(1),
        Softmax(2, True),
        PRelu(),
    ],
)
def test_nan_and_infinity(op: Op) -> None:
    each = case(op, (2, 19, 9, 9), *([(19, 1, 1)] if isinstance(op, PRelu) else []))
    arrays = with_specials(each.arrays(), 0.01)
    for kind in TYPES:
        check(each, kind, arrays=arrays, relative=1e-5)


@pytest.mark.parametrize("op", [LayerNorm(1), GroupNorm(2)])
def test_far_from_zero(op: Op) -> None:
    """A mean a thousand times the deviation: the difference of two squares would lose it."""
    for layout in LAYOUTS:
        shapes = ((4, 768), (768,), (768,)) if isinstance(op, LayerNorm) else ((2, 8, 9, 11), (8,), (8,))
        each = Case(op, shapes, (layout, "dense"))
        x, *parameters = each.arrays()
        check(each, "f32", arrays=[x + 1000, *parameters], absolute=2e-3)


def test_halves_are_summed_in_f32() -> None:
    """Sums beyond the halves, whose average or root is one; and more of them than halves can count."""
    large = np.full((1, 2, 64, 64), 400.0, np.float32)
    for op in (Pool("average", (64, 64)), AdaptivePool("average"), Reduce("mean", (2, 3)), Reduce("l2", (2, 3))):
        check(case(op, large.shape), "f16", arrays=[large])
    check(case(LocalResponseNorm(2, 0.5, 0.5), large.shape), "f16", arrays=[large])
    check(case(GroupNorm(1), large.shape, (2,), (2,)), "f16", arrays=[large, large[0, :, 0, 0], large[0, :, 0, 0]])
    check(case(MatMul(), (3, 5000), (5000, 2)), "f16", arrays=[np.ones((3, 5000)), np.ones((5000, 2)) + 2**-9])


# ---- what is not there, and what is refused -------------------------------------------------------------------------
@pytest.mark.filterwarnings("ignore:Mean of empty slice", "ignore:invalid value")
@pytest.mark.parametrize("each", [each for each in CASES if each.shapes[0][:1] == (2,)], ids=str)
def test_empty_batch(each: Case) -> None:
    shapes = tuple((0, *shape[1:]) if shape[:1] == (2,) else shape for shape in each.shapes)
    empty = dataclasses.replace(each, shapes=shapes)
    try:
        empty.output()
    except InvalidModel:  # a target with the batch in it
        return
    if empty.output().elems == 0:
        views = [*empty.views(), empty.output()]
        *inputs, output = (placed(view, torch.float16)[1] for view in views)
        gpu_torch.evaluate(empty.op, inputs, [output])
    elif isinstance(each.op, Reduce) and each.op.kind in ("max", "min"):
        with pytest.raises(InvalidArgument, match="no element is there"):
            check(empty, "f32")
    else:
        check(empty, "f16")


def test_refusals() -> None:
    x = torch.zeros(1, 2, 3, 3)
    with pytest.raises(InvalidArgument, match="not used for Conv"):
        gpu_torch.evaluate(Conv(), [x, torch.zeros(2, 2, 1, 1)], [torch.zeros(1, 2, 3, 3)])
    with pytest.raises(InvalidArgument, match=r"shape \(1, 2, 3, 3\), not \(2, 2, 3, 3\)"):
        gpu_torch.evaluate(Unary(Activation("relu")), [x], [torch.zeros(2, 2, 3, 3)])
    with pytest.raises(InvalidArgument, match="does not fit"):
        gpu_torch.copy(x, torch.zeros(2, 2, 3, 3))


def test_every_operation_has_a_case() -> None:
    """A new operation needs an implementation and a case here."""
    assert {type(each.op) for each in CASES} == SERVED
    assert set(gpu_torch.ACTIVATIONS) == set(ACTIVATIONS)
    assert set(gpu_torch.ARITHMETIC) == set(BINARY_KINDS)


@pytest.mark.parametrize("served", sorted(SERVED, key=lambda each: each.__name__))
def test_every_operation_is_served(served: type[Op]) -> None:
    each = next(each for each in CASES if type(each.op) is served)
    check(each, "f32", arrays=positive(each))


# ---- copies ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("pair", list(itertools.product(LAYOUTS, LAYOUTS)), ids="-".join)
def test_copy(pair: tuple[str, str]) -> None:
    for shape in (SHAPE, (1, 1, 1, 1), (0, 3, 4, 4), (3, 5), ()):
        for source_kind, target_kind in itertools.product(TYPES.values(), TYPES.values()):
            source = placed(LAYOUTS[pair[0]](shape), source_kind)[1].copy_(torch.randn(shape))
            memory, target = placed(LAYOUTS[pair[1]](shape), target_kind)
            gpu_torch.copy(source, target)
            assert torch.equal(target, source.to(target_kind))
            assert memory.isnan().sum() == memory.numel() - source.numel()


def test_repeated_inputs() -> None:
    """Views with strides of 0, and an output that is one of the inputs."""
    a, b = torch.randn(1, 5, 1, 1).expand(2, 5, 3, 4), torch.randn(3, 1).expand(2, 5, 3, 4)
    out = torch.empty(2, 5, 3, 4)
    gpu_torch.evaluate(Binary("sub"), [a, b], [out])
    assert torch.equal(out, a - b)
    expected = out.clone().relu() + a
    gpu_torch.evaluate(Unary(Activation("relu")), [out], [out])
    gpu_torch.evaluate(Binary("add"), [out, a], [out])
    assert torch.equal(out, expected)


def test_training_and_autocast_change_nothing() -> None:
    a, b = torch.randn(9, 300, requires_grad=True), torch.randn(300, 7, requires_grad=True)
    out = torch.empty(9, 7)
    with torch.autocast("cpu", torch.bfloat16):
        gpu_torch.evaluate(MatMul(), [a, b], [out])
    assert not out.requires_grad
    torch.testing.assert_close(out, (a.double() @ b.double()).float().detach(), rtol=1e-5, atol=1e-4)


# ---- what GPUs ask for ----------------------------------------------------------------------------------------------
class OnlyOnTheDevice(TorchDispatchMode):
    """Fails where an operator takes or makes a tensor anywhere but in the device's memory."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves((args, kwargs, result)):
            assert not isinstance(leaf, torch.Tensor) or leaf.device.type == "meta", f"{function} on {leaf.device}"
        return result


@pytest.mark.parametrize("each", CASES, ids=str)
def test_can_be_recorded(each: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """On tensors without memory whatever reads a value fails; the second call takes nothing from the host's memory."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # which knows no such device
    views = [*each.views(), each.output()]
    *inputs, output = (torch.empty_strided(view.shape, view.strides, device="meta") for view in views)
    gpu_torch.evaluate(each.op, inputs, [output])
    with OnlyOnTheDevice():
        gpu_torch.evaluate(each.op, inputs, [output])


def test_the_host_is_noticed() -> None:
    x = torch.empty(3, device="meta")
    with OnlyOnTheDevice(), pytest.raises(AssertionError, match="cpu"):
        x.copy_(torch.ones(3))
    with pytest.raises(RuntimeError):
        x.sum().item()


@pytest.mark.parametrize("each", MATRICES, ids=str)
def test_products_of_halves_on_a_gpu(each: Case) -> None:
    """PyTorch sums halves in f32 to the end only if the product is f32; what a CPU cannot run has its shapes here."""
    for kind, other in (("f16", "f16"), ("bf16", "bf16"), ("f16", "f32"), ("f32", "f32")):
        with FakeTensorMode():
            a, b = (
                torch.empty(shape, dtype=TYPES[k], device="cuda")
                for shape, k in zip(each.shapes, (kind, other), strict=True)
            )
            product = gpu_torch.matmul(a, b)
        assert product.dtype == torch.float32
        assert product.numel() == np.prod(each.output().shape, dtype=int)
