"""Layer lists: the files say what the zoo says, and mistakes in a file are named with their line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from waterline import models
from waterline.bench import layers
from waterline.errors import InvalidArgument
from waterline.spec import ConvSpec

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks" / "layers"


@pytest.mark.parametrize("network", layers.NETWORKS)
def test_the_file_is_what_the_zoo_says(network: str) -> None:
    text = (FOLDER / f"{network}.txt").read_text(encoding="utf-8")
    assert text == layers.text_of(network), "python -m waterline.bench.layers benchmarks/layers"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.txt")), ids=lambda path: path.stem)
def test_every_file_can_be_read(path: Path) -> None:
    specs = layers.read(path)
    assert len(specs) == len(set(specs))
    assert all(spec.n == 1 and spec.dtype == "f32" for spec in specs)


def test_resnet18_has_the_layers_of_the_indirect_paper() -> None:
    """The list in the benchmark of the paper's author: (image, filter, stride, channels in, channels out)."""
    published = {
        (224, 7, 2, 3, 64), (56, 3, 1, 64, 64), (56, 3, 2, 64, 128), (28, 3, 1, 128, 128), (56, 1, 2, 64, 128),
        (28, 3, 2, 128, 256), (14, 3, 1, 256, 256), (28, 1, 2, 128, 256), (14, 3, 2, 256, 512), (7, 3, 1, 512, 512),
        (14, 1, 2, 256, 512),
    }  # fmt: skip
    ours = {(spec.h, spec.r, spec.stride[0], spec.c, spec.k) for spec in layers.read(FOLDER / "resnet18.txt")}
    assert ours == published


def test_vgg19_has_the_arithmetic_of_the_winograd_paper() -> None:
    total = sum(spec.flops for _, spec in models.convolutions("vgg19"))
    assert total / 1e9 == pytest.approx(39.02, abs=0.02)


def test_comments_and_empty_lines_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "layers.txt"
    path.write_text("# head\n\nn1_c8_h4_w4_k8_r3_s3_st1_pd1_dl1_g1_f32  # twice in the network\n")
    assert layers.read(path) == [ConvSpec(1, 8, 4, 4, 8, 3, 3, pad=(1, 1, 1, 1))]


def test_a_mistake_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "layers.txt"
    path.write_text("# head\nn1_c8\n")
    with pytest.raises(InvalidArgument, match=r"layers.txt:2"):
        layers.read(path)
    path.write_text("# only a comment\n")
    with pytest.raises(InvalidArgument, match="no layers"):
        layers.read(path)


def test_a_layer_as_a_model() -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    from waterline.reference import conv2d

    spec = ConvSpec(2, 8, 9, 7, 12, 3, 2, stride=(2, 1), pad=(0, 1, 2, 0), dilation=(1, 2), groups=4)
    model = models.build_layer(spec, seed=5)
    weight = np.frombuffer(model.graph.initializer[0].raw_data, np.float32).reshape(12, 2, 3, 2)
    x = np.random.default_rng(1).standard_normal((2, 8, 9, 7), np.float32)
    (y,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"input": x})
    np.testing.assert_allclose(y, conv2d(x, weight, None, spec), atol=1e-5)
