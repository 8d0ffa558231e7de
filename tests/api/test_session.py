"""`waterline.Session`, used as ONNX Runtime's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

import waterline
from waterline import InvalidArgument

from .networks import image, model_proto


@pytest.fixture(scope="module")
def session() -> waterline.Session:
    return waterline.Session(model_proto(), num_threads=1)


def test_names_shapes_and_types_as_onnxruntime_gives_them(session: waterline.Session) -> None:
    peer = onnxruntime.InferenceSession(model_proto().SerializeToString(), providers=["CPUExecutionProvider"])
    for ours, theirs in [(session.get_inputs(), peer.get_inputs()), (session.get_outputs(), peer.get_outputs())]:
        assert [info.name for info in ours] == [info.name for info in theirs]
        assert [list(info.shape) for info in ours] == [info.shape for info in theirs]
        assert [info.type for info in ours] == [info.type for info in theirs]


def test_results_as_onnxruntime_gives_them(session: waterline.Session) -> None:
    peer = onnxruntime.InferenceSession(model_proto().SerializeToString(), providers=["CPUExecutionProvider"])
    for shape in [(1, 3, 12, 10), (2, 3, 12, 10), (1, 3, 5, 4)]:
        x = image(*shape)
        for ours, theirs in zip(session.run(None, {"x": x}), peer.run(None, {"x": x}), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_outputs_by_name_and_in_any_order(session: waterline.Session) -> None:
    features, means = session.run(None, {"x": image()})
    for names, expected in [
        (["means"], [means]),
        (["means", "features"], [means, features]),
        (["features", "features"], [features, features]),
        ([], []),
    ]:
        results = session.run(names, {"x": image()})
        assert len(results) == len(expected)
        for result, value in zip(results, expected, strict=True):
            np.testing.assert_array_equal(result, value)


def test_unknown_and_missing_names(session: waterline.Session) -> None:
    with pytest.raises(InvalidArgument, match=r"no output 'mean'.*features, means"):
        session.run(["mean"], {"x": image()})
    with pytest.raises(InvalidArgument, match="no input 'y'"):
        session.run(None, {"x": image(), "y": image()})
    with pytest.raises(InvalidArgument, match="'x' is missing"):
        session.run(None, {})


def test_a_missing_input_of_a_model_with_open_sizes() -> None:
    with pytest.raises(InvalidArgument, match="'x'"):
        waterline.Session(model_proto()).run(None, {})


def test_from_a_path_with_every_size_known(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(model_proto(12, 10), path)
    for source in (path, str(path), path.read_bytes()):
        (means,) = waterline.Session(source).run(["means"], {"x": image()})
        assert means.shape == (1, 8, 1, 1)


def test_wrong_dtype_and_shape(session: waterline.Session) -> None:
    with pytest.raises(InvalidArgument, match="float64"):
        session.run(None, {"x": image().astype(np.float64)})
    with pytest.raises(InvalidArgument, match="shape"):
        session.run(None, {"x": image(1, 4, 12, 10)})
    with pytest.raises(InvalidArgument, match="axes"):
        session.run(None, {"x": image(3, 12, 10)})


def test_no_file() -> None:
    with pytest.raises(InvalidArgument, match="does not exist"):
        waterline.Session("no such file.onnx")
