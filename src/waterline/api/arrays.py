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
        array = _from_torch(value, name)
    elif hasattr(value, "__dlpack__"):
        try:
            array = np.from_dlpack(value)
        except (RuntimeError, BufferError, TypeError, ValueError) as error:
            raise InvalidArgument(f"input {name!r} cannot be read through DLPack: {error}") from error
    elif hasattr(value, "__array__"):
        array = np.asarray(value)
    else:
        raise InvalidArgument(
            f"input {name!r} is of type {type(value).__name__}, not an array", "pass a NumPy array or a torch tensor"
        )
    if array.dtype != np.float32:
        raise _wrong_dtype(name, array.dtype, "x.astype('float32')")
    return np.ascontiguousarray(array) if not array.flags.c_contiguous or not array.flags.aligned else array


def _from_torch(tensor: Any, name: str) -> np.ndarray:
    torch = sys.modules["torch"]
    if tensor.device.type != "cpu":
        raise InvalidArgument(f"input {name!r} is on {tensor.device}", "move it to the CPU: x.cpu()")
    if tensor.layout != torch.strided:
        layout = str(tensor.layout).removeprefix("torch.")
        raise InvalidArgument(f"input {name!r} has the layout {layout}", "make it dense: x.to_dense()")
    if tensor.dtype != torch.float32:
        raise _wrong_dtype(name, str(tensor.dtype).removeprefix("torch."), "x.float()")
    array: np.ndarray = tensor.detach().resolve_neg().numpy()
    return array


def _wrong_dtype(name: str, dtype: Any, conversion: str) -> InvalidArgument:
    return InvalidArgument(f"input {name!r} has dtype {dtype}, the network takes float32", f"convert it: {conversion}")


def is_torch(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def like(array: np.ndarray, example: Any) -> Any:
    """A result in the caller's kind of array: torch tensors get torch tensors, all others NumPy arrays."""
    if is_torch(example):
        return sys.modules["torch"].from_numpy(array)
    return array
