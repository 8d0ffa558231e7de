"""The traps themselves: each kind of misuse is noticed, and proper use is not."""

import ctypes

import numpy as np
import pytest

from algorithms.guards import Guarded, GuardedTensor
from algorithms.layers import LAYOUTS

SHAPE = (2, 3, 4, 5)


@pytest.mark.parametrize(("guard", "offset_bytes"), [("behind", 40), ("before", -4)])
@pytest.mark.parametrize("aligned", [False, True])
def test_touching_the_forbidden_page_ends_the_child(guard, offset_bytes, aligned, forked):
    block = Guarded("block", 40 if not aligned else 64, guard, aligned=aligned)
    offset_bytes = len(block.words) * 4 if guard == "behind" else offset_bytes
    assert forked(lambda: ctypes.memset(block.address, 1, len(block.words) * 4)) == ""
    assert forked(lambda: ctypes.string_at(block.address + offset_bytes, 4)) == "killed by SIGSEGV"
    assert forked(lambda: ctypes.memset(block.address + offset_bytes, 1, 1)) == "killed by SIGSEGV"


def test_a_child_s_writes_are_seen_and_its_failures_are_told(forked):
    block = Guarded("block", 8, "behind")
    assert forked(lambda: ctypes.memset(block.address, 7, 8)) == ""
    assert block.words.tobytes() == b"\7" * 8
    assert forked(lambda: 1 / 0) == "exit status 1"


def test_writes_outside_are_noticed():
    block = Guarded("block", 40, "behind")
    block.check_surroundings()
    ctypes.memset(block.address - 4, 0, 4)
    with pytest.raises(AssertionError, match="block: written outside, at elements"):
        block.check_surroundings()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_tensor_lies_as_its_view_says(layout):
    array = np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
    tensor = GuardedTensor("x", LAYOUTS[layout](SHAPE), "behind", array)
    np.testing.assert_array_equal(tensor.values(), array)


@pytest.mark.parametrize("layout", ["concat", "crop"])
def test_gaps_must_stay_and_elements_must_be_written(layout):
    view = LAYOUTS[layout](SHAPE)
    array = np.zeros(SHAPE, np.float32)
    tensor = GuardedTensor("y", view, "behind", array)
    gap = next(i for i in range(view.span_elems) if tensor.words[i] != 0)
    tensor.words[gap] = 0
    with pytest.raises(AssertionError, match=r"y: written between the tensor's elements"):
        tensor.values()
    with pytest.raises(AssertionError, match="y: 120 elements not written"):
        GuardedTensor("y", view, "behind").values()
