"""Runs one algorithm with one config on one layer, as the runtime would, and compares it with the truth.

Each layer is run four times on guarded memory, in a forked child: three images of small whole numbers, three of random
numbers, the same with the work items handed out piecemeal and in another order, and the middle image alone.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import pytest

from algorithms.guards import Guarded, GuardedTensor
from waterline.algorithms import Implementation, Views, by_name
from waterline.codegen.cpu.clock import COUNTER_BYTES
from waterline.codegen.cpu.jit import Library, compile_object
from waterline.codegen.cpu.kernel import Call, Clock, Input, Kernel, Number, Output, Packed, Workspace
from waterline.machine import ISAS, Machine, detect
from waterline.reference import compare, conv2d, conv_bound
from waterline.spec import ConvSpec, TensorView, channels_last

LOCAL = detect()
IMAGES = 3
ENTRY = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)

# The classes of kernels that an algorithm is made of: whoever runs another one has not run the algorithm.
KERNELS = {
    "direct_gemm": {"GemmKernel"},
    "indirect": {"GemmKernel"},
    "im2col": {"PatchKernel", "GemmKernel"},
    "depthwise": {"DepthwiseKernel"},
    "grouped": {"BroadcastKernel", "PermuteKernel", "GemmKernel"},
    "naive": {"NaiveKernel"},
    "fft": {"FilterKernel", "InputKernel", "ProductKernel", "OutputKernel"},
    "winograd": {"InputTransformKernel", "GemmKernel", "OutputTransformKernel", "StreamedKernel", "FusedKernel"},
}
# Functions of whole numbers that stay exact in f32.
EXACT = (None, "relu", "leaky_relu", "clip", "abs", "neg", "square")


def machines() -> list[Any]:
    """This machine and what it can be restricted to, as pytest parameters; the rest is skipped visibly."""
    found = []
    for isa, (arch, needed, _) in ISAS.items():
        if arch == LOCAL.arch:
            skip = pytest.mark.skip(reason=f"this machine has no {isa}")
            found.append(pytest.param(isa, marks=() if needed <= LOCAL.features else skip))
    return found


@functools.cache
def machine_of(isa: str) -> Machine:
    return LOCAL if isa == LOCAL.isa else LOCAL.restricted(isa)


def available_isas() -> list[str]:
    return [isa for isa, (arch, needed, _) in ISAS.items() if arch == LOCAL.arch and needed <= LOCAL.features]


# ---- layouts --------------------------------------------------------------------------------------------------------
def dense(shape: Sequence[int]) -> TensorView:
    return TensorView.dense(shape, channels_last(4))


def concat(shape: Sequence[int]) -> TensorView:
    """A range of the channels of a wider tensor: pixels are further apart than their own channels are many."""
    n, c, h, w = shape
    return TensorView(tuple(shape), TensorView.dense((n, c + 5, h, w), channels_last(4)).strides)


def crop(shape: Sequence[int]) -> TensorView:
    """A part of a larger image: rows are further apart than their own pixels are many."""
    n, c, h, w = shape
    return TensorView(tuple(shape), TensorView.dense((n, c, h + 1, w + 2), channels_last(4)).strides)


LAYOUTS: dict[str, Callable[[Sequence[int]], TensorView]] = {"dense": dense, "concat": concat, "crop": crop}


# ---- cases ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Case:
    """`spec.n` does not matter: every case is run on one image and on several."""

    algorithm: str
    isa: str
    spec: ConvSpec
    config: Any
    x: str = "dense"
    y: str = "dense"

    def __str__(self) -> str:
        values = {f.name: getattr(self.config, f.name) for f in fields(self.config)}
        config = "".join(v if isinstance(v, str) else f"{name[0]}{int(v)}" for name, v in values.items())
        layouts = "" if self.x == self.y == "dense" else f"-{self.x}-{self.y}"
        epilogue = "" if str(self.spec.epilogue) == "none" else f"-{self.spec.epilogue}"
        return f"{self.algorithm}-{self.isa}-{config}-{self.spec.id}{epilogue}{layouts}"

    @property
    def machine(self) -> Machine:
        return machine_of(self.isa)

    def views(self, images: int) -> Views:
        s = self.spec
        out = (images, s.k, s.p, s.q)
        x, y = LAYOUTS[self.x]((images, s.c, s.h, s.w)), LAYOUTS[self.y](out)
        return Views(x, y, LAYOUTS[self.y](out) if s.epilogue.residual else None)

    def implementation(self, images: int) -> Implementation:
        algorithm = by_name(self.algorithm)
        return algorithm.implement(self.spec.with_batch(images), self.config, self.views(images), self.machine)


@dataclass(frozen=True)
class Data:
    """The tensors of a layer, in its logical shapes."""

    x: np.ndarray
    weight: np.ndarray
    bias: np.ndarray | None
    residual: np.ndarray | None

    @classmethod
    def random(cls, spec: ConvSpec, rng: np.random.Generator, *, whole: bool) -> Data:
        def draw(shape: tuple[int, ...]) -> np.ndarray:
            values = rng.integers(-4, 5, shape) if whole else rng.standard_normal(shape)
            return values.astype(np.float32)

        shapes = ((spec.n, spec.c, spec.h, spec.w), (spec.k, spec.group_c, spec.r, spec.s))
        bias = draw((spec.k,)) if spec.epilogue.bias else None
        residual = draw((spec.n, spec.k, spec.p, spec.q)) if spec.epilogue.residual else None
        return cls(draw(shapes[0]), draw(shapes[1]), bias, residual)

    def image(self, i: int) -> Data:
        residual = None if self.residual is None else self.residual[i : i + 1]
        return Data(self.x[i : i + 1], self.weight, self.bias, residual)

    def truth(self, spec: ConvSpec) -> np.ndarray:
        return conv2d(self.x, self.weight, self.bias, spec, self.residual)

    def bound(self, spec: ConvSpec, factor: float, mixes_pixels: bool) -> np.ndarray:
        given = {"bias": self.bias, "residual": self.residual}
        return conv_bound(spec, self.x, self.weight, factor, **given, mixes_pixels=mixes_pixels)


# ---- kernels --------------------------------------------------------------------------------------------------------
_linked: dict[str, Library] = {}


def link(kernel: Kernel, machine: Machine) -> int:
    """The address of a kernel, compiled without any cache on disk."""
    key = kernel.key(machine)
    if key not in _linked:
        _linked[key] = Library([compile_object(kernel.emit(key, machine), machine)], [key])
    return _linked[key][key]


def check_is_asked_for(case: Case, implementation: Implementation) -> None:
    """Fails if the calls are not the algorithm's own, with the config that the case names."""
    known = KERNELS.get(case.algorithm.partition(":")[0])
    assert known is not None, f"say in KERNELS which kernels {case.algorithm} is made of"
    made = {type(call.kernel).__name__ for call in implementation.calls}
    assert made, "the layer has no calls"
    assert made <= known, f"asked for {case.algorithm}, got {made}"
    for call in implementation.calls:
        tile = getattr(call.kernel, "tile", None)
        if tile is not None and hasattr(case.config, "tile"):
            assert tile == case.config.tile
        if hasattr(case.config, "width"):
            assert call.kernel.width == case.config.width


@dataclass
class Run:
    """One execution on memory of its own. `pieces` cuts the items of every call at these places in [0, 1]."""

    case: Case
    data: Data
    guard: str
    pieces: Sequence[float] = ()
    guarded: str = ""  # the only memory that is guarded; "": all
    memory: dict[str, Guarded] = field(default_factory=dict)

    def __post_init__(self) -> None:
        case, spec, data = self.case, self.case.spec, self.data
        images = data.x.shape[0]
        views = case.views(images)
        self.implementation = case.implementation(images)
        self._tensor("x", views.x, data.x)
        self._tensor("y", views.y, None)
        if views.residual is not None:
            self._tensor("residual", views.residual, data.residual)
        algorithm = by_name(case.algorithm)
        packed = algorithm.pack_weights(spec, case.config, data.weight, data.bias, case.machine)
        packed |= algorithm.pack_tables(spec, case.config, views, case.machine)
        for name, array in packed.items():
            self._block(name, array.nbytes).fill(array)
        for name, size in self.implementation.workspaces.items():
            self._block(name, size, aligned=True)
        self._jobs = [self._job(call, i) for i, call in enumerate(self.implementation.calls)]

    def _guard(self, name: str) -> str:
        return self.guard if self.guarded in ("", name) else ""

    def _tensor(self, name: str, view: TensorView, array: np.ndarray | None) -> None:
        self.memory[name] = GuardedTensor(name, view, self._guard(name), array)

    def _block(self, name: str, size: int, *, aligned: bool = False) -> Guarded:
        self.memory[name] = Guarded(name, size, self._guard(name), aligned=aligned)
        return self.memory[name]

    def _job(self, call: Call, number: int) -> Callable[[], None]:
        inputs = ["x", "weight"] + ["bias"] * self.case.spec.epilogue.bias + ["residual"]
        words = []
        for arg in call.args:
            match arg:
                case Input(index):
                    words.append(self.memory[inputs[index]].address)
                case Output(0):
                    words.append(self.memory["y"].address)
                case Packed(name) | Workspace(name):
                    words.append(self.memory[name].address)
                case Number(value):
                    words.append(value)
                case Clock(phases):
                    size = len(phases) * COUNTER_BYTES
                    words.append(self._block(f"clock {number}", size, aligned=True).address)
        args = (ctypes.c_int64 * len(words))(*words)
        scratch = self._block(f"scratch {number}", -(-call.scratch_bytes // 64) * 64, aligned=True)
        function = ENTRY(link(call.kernel, self.case.machine))
        cuts = sorted({0, call.items, *(int(p * call.items) for p in self.pieces)})
        ranges = list(itertools.pairwise(cuts))[:: -1 if self.pieces else 1]

        def job() -> None:
            for begin, end in ranges:
                function(ctypes.addressof(args), begin, end, scratch.address)

        return job

    def execute(self) -> None:
        for job in self._jobs:
            job()

    def result(self) -> np.ndarray:
        for block in self.memory.values():
            block.check_surroundings()
        y = self.memory["y"]
        assert isinstance(y, GuardedTensor)
        return y.values()


def check(case: Case, forked: Callable[[Callable[[], object]], str]) -> None:
    """Everything that is claimed of an algorithm on one layer."""
    spec, algorithm = case.spec.with_batch(IMAGES), by_name(case.algorithm)
    one, several = case.implementation(1), case.implementation(IMAGES)
    check_is_asked_for(case, several)
    assert {c.kernel for c in one.calls} == {c.kernel for c in several.calls}, "the kernels depend on the batch"

    seed = zlib.crc32(str(case).encode())
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    whole, floats = Data.random(spec, rng, whole=True), Data.random(spec, rng, whole=False)
    runs = [
        Run(case, whole, "behind"),
        Run(case, floats, "behind"),
        Run(case, floats, "before", pieces=tuple(rng.random(4))),
        Run(case, floats.image(1), "behind"),
    ]
    outcome = forked(lambda: [run.execute() for run in runs])
    assert not outcome, f"{outcome}; {diagnosis(case, floats, forked)}"
    exact, random, piecemeal, alone = (run.result() for run in runs)

    epilogue, factor = spec.epilogue, algorithm.tolerance(spec, case.config)
    stays_whole = all(a is None or a.kind in EXACT for a in (epilogue.before, epilogue.after))
    if factor <= 1 and stays_whole:
        np.testing.assert_array_equal(exact, whole.truth(spec), err_msg="whole numbers must come out exactly")
    else:
        assert_close(exact, whole, case, factor)
    assert_close(random, floats, case, factor)
    assert random.tobytes() == piecemeal.tobytes(), "the result depends on how the items are handed out"
    assert random[1:2].tobytes() == alone.tobytes(), "an image alone differs from the same image in a batch"


def assert_close(actual: np.ndarray, data: Data, case: Case, factor: float) -> None:
    spec = case.spec.with_batch(IMAGES)
    bound = data.bound(spec, factor, by_name(case.algorithm).mixes_pixels)
    comparison = compare(actual, data.truth(spec), bound)
    assert comparison.is_within, str(comparison)


def diagnosis(case: Case, data: Data, forked: Callable[[Callable[[], object]], str]) -> str:
    """Which memory is left, found by guarding one at a time."""
    found = []
    for guard in ("behind", "before"):
        for name in Run(case, data, "").memory:
            outcome = forked(Run(case, data, guard, guarded=name).execute)
            found += [f"{guard} {name} ({outcome})"] * bool(outcome)
    return "the kernel leaves its memory: " + (", ".join(found) or "not where one guard stands alone")
