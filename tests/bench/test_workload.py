"""What can be measured: names, files and layers; and the arithmetic in them."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from waterline import models
from waterline.bench.workload import Workload, flops
from waterline.errors import InvalidArgument, InvalidModel
from waterline.spec import ConvSpec


def save(tmp_path: Path, shape: list[int | str | None], dtype: int = onnx.TensorProto.FLOAT) -> Path:
    x = onnx.helper.make_tensor_value_info("x", dtype, shape)
    y = onnx.helper.make_tensor_value_info("y", dtype, None)
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    path = tmp_path / "small.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def test_a_name_of_the_zoo() -> None:
    workload = Workload.named("squeezenet1_1", image_size=64)
    assert workload.shapes_for(3) == {"input": (3, 3, 64, 64)}
    assert workload.inputs(2)["input"].shape == (2, 3, 64, 64)
    assert (workload.inputs(2, seed=1)["input"] != workload.inputs(2)["input"]).any()


def test_a_file(tmp_path: Path) -> None:
    workload = Workload.named(str(save(tmp_path, ["N", 3, 8, 8])))
    assert workload.name == "small"
    assert workload.shapes_for(5) == {"x": (5, 3, 8, 8)}
    assert workload.graph(5).shapes["y"] == (5, 3, 8, 8)


def test_a_fixed_batch_is_kept(tmp_path: Path) -> None:
    workload = Workload.named(str(save(tmp_path, [4, 3])))
    assert workload.shapes_for(4) == {"x": (4, 3)}
    with pytest.raises(InvalidArgument, match="fixed shape") as raised:
        workload.shapes_for(1)
    assert "--batch 4" in raised.value.hint


@pytest.mark.parametrize("shape", [["N", 3, "H", "W"], [1, None]])
def test_an_unknown_size_is_refused(tmp_path: Path, shape: list) -> None:
    with pytest.raises(InvalidArgument, match="size of input 'x'"):
        Workload.named(str(save(tmp_path, shape)))


def test_inputs_that_cannot_be_made_up(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="int64"):
        Workload.named(str(save(tmp_path, [1, 3], onnx.TensorProto.INT64)))


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="no network and no file") as raised:
        Workload.named("resnet81")
    assert "resnet18" in raised.value.hint
    with pytest.raises(InvalidArgument, match="directory"):
        Workload.named(str(tmp_path))
    (tmp_path / "text.onnx").write_text("not a model")
    with pytest.raises(InvalidModel):
        Workload.named(str(tmp_path / "text.onnx"))
    with pytest.raises(InvalidArgument, match="written in the file"):
        Workload.named(str(save(tmp_path, [1, 3])), image_size=3)


def test_flops() -> None:
    spec = ConvSpec(2, 8, 9, 9, 16, 3, 3, pad=(1, 1, 1, 1), groups=2)
    assert flops(Workload.layer(spec).graph(2)) == spec.flops
    convolutions = sum(spec.flops for _, spec in models.convolutions("resnet18"))
    assert flops(Workload.named("resnet18").graph(1)) == convolutions + 2 * 512 * 1000


def test_convnext_counts_its_matrix_products() -> None:
    assert flops(Workload.named("convnext_tiny").graph(1)) / 2e9 == pytest.approx(4.456, abs=0.01)
