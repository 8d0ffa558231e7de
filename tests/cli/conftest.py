"""The command line as a user meets it: arguments in, output and exit status out."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from waterline.cli.main import entry

Run = Callable[..., subprocess.CompletedProcess]


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache folder for all tests of the command line."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def call(cache: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> Run:
    """Runs `waterline ARGUMENTS` in this process."""

    def run(*arguments: object) -> subprocess.CompletedProcess:
        words = [str(argument) for argument in arguments]
        monkeypatch.setenv("WATERLINE_CACHE_DIR", str(cache))
        capfd.readouterr()
        status = entry(words)
        return subprocess.CompletedProcess(words, status, *capfd.readouterr())

    return run


@pytest.fixture
def start(cache: Path) -> Run:
    """Runs `waterline ARGUMENTS` in another process, without any of the user's settings."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("WATERLINE_")}

    def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-m", "waterline.cli.main", *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=300,
            env={**inherited, "WATERLINE_CACHE_DIR": str(cache), "OMP_NUM_THREADS": "1", **environment},
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a convolution, an activation and scores of ten classes for a 16x16 image."""
    helper = onnx.helper
    random = np.random.default_rng(0)
    weights = {
        "weight": random.standard_normal((8, 3, 3, 3), np.float32) / 5,
        "fc": random.standard_normal((10, 8), np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["image", "weight"], ["a"], name="conv", pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node("GlobalAveragePool", ["b"], ["c"], name="pool"),
        helper.make_node("Flatten", ["c"], ["d"], name="flatten"),
        helper.make_node("Gemm", ["d", "fc"], ["scores"], name="gemm", transB=1),
    ]
    x = helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ["N", 3, 16, 16])
    y = helper.make_tensor_value_info("scores", onnx.TensorProto.FLOAT, ["N", 10])
    tensors = [onnx.numpy_helper.from_array(value, name) for name, value in weights.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "small", [x], [y], initializer=tensors),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=9,
    )
    path = tmp_path_factory.mktemp("models") / "small.onnx"
    onnx.save(model, path)
    return path
