"""Independent implementations that the reference is checked against."""

from __future__ import annotations

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator


def run_onnx(
    op_type: str, x: np.ndarray, *constants: np.ndarray | None, opset: int = 21, **attributes: object
) -> np.ndarray:
    """One ONNX node in ONNX's own reference evaluator, in float64. None stands for an absent optional input."""
    names = ["x"] + ["" if value is None else f"c{i}" for i, value in enumerate(constants)]
    initializers = [onnx.numpy_helper.from_array(v, f"c{i}") for i, v in enumerate(constants) if v is not None]
    node = helper.make_node(op_type, names, ["y"], **attributes)
    x_type = helper.make_tensor_value_info("x", TensorProto.DOUBLE, x.shape)
    y_type = helper.make_tensor_value_info("y", TensorProto.DOUBLE, None)
    graph = helper.make_graph([node], "one", [x_type], [y_type], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    return ReferenceEvaluator(model).run(None, {"x": x})[0]


def tensor(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(x, np.float64))


def assert_close(actual: np.ndarray, expected: np.ndarray | torch.Tensor, tolerance: float = 1e-12) -> None:
    """Equal to `tolerance` times the largest finite value; NaN and infinities at the same places."""
    expected = expected.numpy() if isinstance(expected, torch.Tensor) else expected
    assert actual.shape == expected.shape
    assert actual.dtype == np.float64
    finite = np.abs(expected[np.isfinite(expected)])
    np.testing.assert_allclose(
        actual, expected, rtol=0, atol=tolerance * max(1.0, finite.max(initial=0)), equal_nan=True
    )
