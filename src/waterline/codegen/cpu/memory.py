"""Memory for weights and intermediates: aligned to cache lines, large blocks in huge pages where there are any."""

from __future__ import annotations

import ctypes
import mmap

import numpy as np

from waterline.errors import Error

ALIGNMENT_BYTES = 64
HUGE_PAGE_BYTES = 2 << 20
LEAST_WORKING_BYTES = 256 << 10
# Python maps shared memory by default, which does not get huge pages.
_PRIVATE = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}


def working_bytes(size: int) -> np.ndarray:
    """`aligned_bytes` for what a core reads and writes all the time: in huge pages, even if it does not fill one.

    In small pages, scattered over the memory, a kernel took up to 1.4 times as long in one process as in another.
    """
    return aligned_bytes(size) if size < LEAST_WORKING_BYTES else aligned_bytes(_whole_pages(size))[:size]


def _whole_pages(size: int) -> int:
    return -(-size // HUGE_PAGE_BYTES) * HUGE_PAGE_BYTES


def aligned_bytes(size: int) -> np.ndarray:
    """`size` zero bytes at an address that is a multiple of 64 (of 2 MiB for large blocks).

    Raises:
        Error: the system has not so much memory.
    """
    try:
        if size < HUGE_PAGE_BYTES:
            raw = np.zeros(size + ALIGNMENT_BYTES, np.uint8)
            start = -raw.ctypes.data % ALIGNMENT_BYTES
            return raw[start : start + size]
        block = mmap.mmap(-1, size + HUGE_PAGE_BYTES, **_PRIVATE)
    except (MemoryError, OSError, ValueError, OverflowError) as error:
        raise Error(
            f"no memory for {size / 2**20:.0f} MiB of weights or intermediate tensors", "run a smaller batch or image"
        ) from error
    raw = np.frombuffer(block, np.uint8)
    start = -raw.ctypes.data % HUGE_PAGE_BYTES
    if hasattr(mmap, "MADV_HUGEPAGE"):
        # Whole huge pages only: a huge page for the rest would hold memory that nobody asked for.
        block.madvise(mmap.MADV_HUGEPAGE, start, size // HUGE_PAGE_BYTES * HUGE_PAGE_BYTES)
    return raw[start : start + size]


def aligned_zeros(elems: int) -> np.ndarray:
    """So many float32 zeros."""
    return aligned_bytes(elems * 4).view(np.float32)


def aligned_copy(array: np.ndarray) -> np.ndarray:
    """The same contents at an aligned address."""
    if array.ctypes.data % ALIGNMENT_BYTES == 0 and array.flags.c_contiguous:
        return array
    target = aligned_bytes(array.nbytes).view(array.dtype).reshape(array.shape)
    target[...] = array
    return target


def address(array: np.ndarray) -> int:
    return int(ctypes.c_void_p(array.ctypes.data).value or 0)
