"""Memory for weights and intermediates: zero, aligned, and a clear error where there is none."""

import mmap

import numpy as np
import pytest

from waterline.codegen.cpu.memory import (
    ALIGNMENT_BYTES,
    HUGE_PAGE_BYTES,
    address,
    aligned_bytes,
    aligned_copy,
    aligned_zeros,
)
from waterline.errors import Error

SIZES = [0, 1, 63, 64, 4096, HUGE_PAGE_BYTES - 1, HUGE_PAGE_BYTES, 3 * HUGE_PAGE_BYTES + 5]


@pytest.mark.parametrize("size", SIZES)
def test_memory_is_zero_aligned_and_writable(size: int):
    memory = aligned_bytes(size)
    assert memory.shape == (size,)
    assert memory.dtype == np.uint8
    assert not memory.any()
    assert address(memory) % (HUGE_PAGE_BYTES if size >= HUGE_PAGE_BYTES else ALIGNMENT_BYTES) == 0 or size == 0
    memory[:] = 7
    assert (memory == 7).all()


def test_memory_lives_as_long_as_a_view_of_it():
    part = aligned_bytes(4 * HUGE_PAGE_BYTES).view(np.float32)[5:9]
    part[:] = 3
    assert part.tolist() == [3] * 4


@pytest.mark.parametrize("size", [64, 2 * HUGE_PAGE_BYTES])
def test_a_forked_child_has_memory_of_its_own(size: int, forked):
    """Parent and child run the same network in the same arena, and must not meet there."""
    memory = aligned_bytes(size)

    def child() -> None:
        memory[:] = 1

    assert forked(child) == ""
    assert not memory.any()


def test_zeros_are_floats():
    zeros = aligned_zeros(17)
    assert (zeros.shape, zeros.dtype) == ((17,), np.float32)
    assert address(zeros) % ALIGNMENT_BYTES == 0


@pytest.mark.parametrize("shift", [0, 4, 60])
def test_a_copy_is_made_only_where_it_is_needed(shift: int):
    array = aligned_bytes(256)[shift : shift + 64].view(np.float32)
    array[:] = np.arange(16)
    copy = aligned_copy(array)
    assert (copy is array) == (shift == 0)
    assert address(copy) % ALIGNMENT_BYTES == 0
    np.testing.assert_array_equal(copy, array)


def test_a_copy_is_contiguous():
    array = aligned_bytes(256).view(np.float32).reshape(8, 8).T
    assert aligned_copy(array).flags.c_contiguous
    assert aligned_copy(array).shape == (8, 8)


@pytest.mark.parametrize("size", [1 << 62, (1 << 63) - 1, 1 << 70])
def test_more_than_there_is(size: int):
    with pytest.raises(Error, match="no memory for"):
        aligned_bytes(size)


def test_a_system_that_refuses(monkeypatch: pytest.MonkeyPatch):
    def refuse(*arguments: object, **named: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(mmap, "mmap", refuse)
    with pytest.raises(Error, match="no memory for 8 MiB"):
        aligned_bytes(8 << 20)
