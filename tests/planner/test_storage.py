"""Views without copies, against NumPy: the same elements, and a copy only where NumPy would need one too."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from waterline.planner import Storage
from waterline.planner.storage import has_linear_pixels, is_channels_last
from waterline.spec import TensorView, channels_last

OFFSET = 7


def made(shape: tuple[int, ...], order: tuple[int, ...] | None = None) -> tuple[Storage, np.ndarray]:
    """A dense storage behind an offset, and the same tensor in NumPy: every element is its place in the buffer."""
    view = TensorView.dense(shape, order)
    buffer = np.arange(OFFSET, OFFSET + math.prod(shape))
    array = np.lib.stride_tricks.as_strided(buffer, shape, [s * buffer.itemsize for s in view.strides])
    return Storage("root", OFFSET, view), array


def places(storage: Storage) -> np.ndarray:
    """Where each element of a storage lies."""
    at = np.full(storage.view.shape, storage.offset)
    for axis, (size, stride) in enumerate(zip(storage.view.shape, storage.view.strides, strict=True)):
        at += (np.arange(size) * stride).reshape([-1 if i == axis else 1 for i in range(at.ndim)])
    return at


@st.composite
def factorings(draw: st.DrawFn, elems: int) -> tuple[int, ...]:
    """A shape of so many elements, with some axes of size 1."""
    shape: list[int] = []
    while elems > 1:
        divisors = [d for d in range(2, elems + 1) if elems % d == 0]
        shape.append(draw(st.sampled_from(divisors)))
        elems //= shape[-1]
    for _ in range(draw(st.integers(0, 2))):
        shape.insert(draw(st.integers(0, len(shape))), 1)
    return tuple(shape)


@st.composite
def tensors(draw: st.DrawFn) -> tuple[Storage, np.ndarray]:
    shape = tuple(draw(st.lists(st.integers(1, 6), min_size=1, max_size=4)))
    return made(shape, tuple(draw(st.permutations(range(len(shape))))))


@settings(max_examples=300, deadline=None)
@given(data=st.data(), tensor=tensors(), steps=st.lists(st.sampled_from(["transpose", "slice", "reshape"]), max_size=5))
def test_chains_of_views_are_numpys(data: st.DataObject, tensor: tuple[Storage, np.ndarray], steps: list[str]):
    storage, array = tensor
    for step in steps:
        if step == "transpose":
            perm = data.draw(st.permutations(range(array.ndim)))
            storage, array = storage.transposed(perm), array.transpose(perm)
        elif step == "slice":
            ranges = []
            for size in array.shape:
                start = data.draw(st.integers(0, size - 1))
                stop = data.draw(st.integers(start + 1, size))
                ranges.append(range(start, stop, data.draw(st.integers(1, 3))))
            sliced = storage.sliced(ranges)
            assert sliced is not None
            storage, array = sliced, array[tuple(slice(r.start, r.stop, r.step) for r in ranges)]
        else:
            shape = data.draw(factorings(array.size))
            reshaped = storage.reshaped(shape)
            try:
                there = np.reshape(array, shape, copy=False)
            except ValueError:
                assert reshaped is None, f"{storage.view} as {shape}: NumPy has to copy"
                array = array.reshape(shape)
                storage = Storage("root", 0, TensorView.dense(shape))
                array = places(storage)
                continue
            assert reshaped is not None, f"{storage.view} as {shape}: NumPy has not to copy"
            storage, array = reshaped, there
        assert storage.view.shape == array.shape
        np.testing.assert_array_equal(places(storage), array)


def test_slices_backwards_are_no_views():
    storage, _ = made((4, 3))
    assert storage.sliced([range(3, -1, -1), range(3)]) is None


def test_an_empty_slice_keeps_its_place():
    storage, _ = made((4, 3))
    empty = storage.sliced([range(2, 2), range(3)])
    assert empty is not None
    assert empty.view.shape == (0, 3)
    assert empty.view.span_elems == 0


def test_what_is_channels_last():
    nhwc = TensorView.dense((2, 3, 4, 5), channels_last(4))
    assert is_channels_last(nhwc)
    assert has_linear_pixels(nhwc)
    assert not is_channels_last(TensorView.dense((2, 3, 4, 5)))
    assert is_channels_last(TensorView.dense((2, 1, 4, 5))), "one channel is the neighbour of no other"
    wide = TensorView((2, 3, 4, 5), TensorView.dense((2, 8, 4, 5), channels_last(4)).strides)
    assert is_channels_last(wide)
    assert has_linear_pixels(wide)
    cropped = TensorView((2, 3, 4, 5), TensorView.dense((2, 3, 6, 7), channels_last(4)).strides)
    assert is_channels_last(cropped)
    assert not has_linear_pixels(cropped)
    assert has_linear_pixels(TensorView((2, 3, 1, 5), cropped.strides))


@pytest.mark.parametrize(
    ("shape", "works"), [((2, 15), True), ((30,), True), ((3, 10), True), ((2, 3, 5), True), ((6, 5), True)]
)
def test_dense_memory_takes_any_shape(shape: tuple[int, ...], works: bool):
    assert (made((2, 3, 5))[0].reshaped(shape) is not None) == works
