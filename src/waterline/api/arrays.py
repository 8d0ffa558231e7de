"""Arrays that callers hand over, and getting their kind back."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from waterline.errors import InvalidArgument


def to_numpy(value: Any, name: str) -> np.ndarray:
    """The caller's tensor as a C-contiguous float32 array, without a copy where it is one already.

    Raises:
        InvalidArgument: not an array, or not of float32: nothing is converted behind the caller's back.
    """
    if type(value) is np.ndarray:
        array = value
    elif is_torch(value):
        if value.device.type != "cpu":
            raise InvalidArgument(f"input {name!r} is on {value.device}", "move it to the CPU: x.cpu()")
        array = value.detach().numpy()
    elif hasattr(value, "__dlpack__"):
        try:
            array = np.from_dlpack(value)
        except (RuntimeError, BufferError, TypeError, ValueError) as error:
            raise InvalidArgument(f"input {name!r} cannot be read through DLPack: {error}") from error
    else:
        array = np.asarray(value)
    if array.dtype != np.float32:
        raise InvalidArgument(
            f"input {name!r} has dtype {array.dtype}, the network takes float32",
            "convert it: x.astype('float32')",
        )
    return np.ascontiguousarray(array) if not array.flags.c_contiguous or not array.flags.aligned else array


def is_torch(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def like(array: np.ndarray, example: Any) -> Any:
    """A result in the caller's kind of array: torch tensors get torch tensors, all others NumPy arrays."""
    if is_torch(example):
        return sys.modules["torch"].from_numpy(array)
    return array
