"""Memory that notices misuse: a page that cannot be touched right behind (or before) it, and a pattern all over it."""

from __future__ import annotations

import ctypes
import mmap

import numpy as np

from waterline.spec import TensorView

PATTERN = 0x7FC5A5A5  # a NaN that no computation makes
ALIGNMENT_BYTES = 64

_protect = getattr(ctypes.CDLL(None), "mprotect", None)


class Guarded:
    """`size_bytes` of memory, shared with forked children, with a forbidden page at one end.

    Args:
        guard: "behind" puts the memory's end at the forbidden page, "before" its beginning, "" forbids nothing.
        aligned: begin at a multiple of 64 bytes: with a guard behind, up to 60 bytes are left between.
    """

    def __init__(self, name: str, size_bytes: int, guard: str, *, aligned: bool = False) -> None:
        assert size_bytes % 4 == 0, name
        self.name = name
        page = mmap.PAGESIZE
        room = -(-max(size_bytes, 1) // page) * page
        self._memory = mmap.mmap(-1, room + 2 * page)
        base = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        start = page
        if guard == "behind":
            start = page + room - size_bytes
            start -= start % ALIGNMENT_BYTES if aligned else 0
        self.address = base + start
        words = np.frombuffer(self._memory, np.uint32)
        words[:] = PATTERN
        self._around = words[page // 4 : (page + room) // 4]
        self._first = (start - page) // 4
        self.words = self._around[self._first : self._first + size_bytes // 4]
        if guard and _protect is not None:
            at = base + (page + room if guard == "behind" else 0)
            assert _protect(ctypes.c_void_p(at), ctypes.c_size_t(page), 0) == 0

    def fill(self, array: np.ndarray) -> None:
        self.words[:] = np.ascontiguousarray(array).reshape(-1).view(np.uint32)

    def check_surroundings(self) -> None:
        """Fails if something was written to the same pages, but outside."""
        outside = np.ones(self._around.size, bool)
        outside[self._first : self._first + self.words.size] = False
        touched = np.flatnonzero((self._around != PATTERN) & outside) - self._first
        assert not touched.size, f"{self.name}: written outside, at elements {touched[:8]}"


class GuardedTensor(Guarded):
    """A tensor in the places that `view` says; what lies between its elements keeps the pattern."""

    def __init__(self, name: str, view: TensorView, guard: str, array: np.ndarray | None = None) -> None:
        super().__init__(name, max(view.span_elems, 1) * 4, guard)
        self.view = view
        if array is not None and view.elems:
            self._strided(self.words.view(np.float32))[...] = array

    def _strided(self, flat: np.ndarray) -> np.ndarray:
        strides = [s * flat.itemsize for s in self.view.strides]
        return np.lib.stride_tricks.as_strided(flat, self.view.shape, strides)

    def values(self) -> np.ndarray:
        """The tensor, written whole. Fails if an element was not written, or if anything else was."""
        self.check_surroundings()
        inside = np.zeros(self.words.size, bool)
        self._strided(inside)[...] = True
        touched = np.flatnonzero((self.words != PATTERN) & ~inside)
        assert not touched.size, f"{self.name}: written between the tensor's elements, at elements {touched[:8]}"
        missed = np.argwhere(self._strided(self.words) == PATTERN)
        assert not missed.size, f"{self.name}: {len(missed)} elements not written, first {tuple(missed[0])}"
        return self._strided(self.words.view(np.float32)).copy()
