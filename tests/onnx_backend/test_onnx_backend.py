"""The ONNX project's own suite: node tests of the supported operators, models converted from PyTorch, real networks.

Every test whose name matches INCLUDED is run, with the suite's own tolerances, unless it matches a pattern of EXCLUDED.
WATERLINE_ONNX_EXECUTOR=reference runs the float64 reference instead of the engine: it tests the front end alone.
"""

from __future__ import annotations

import re
import unittest
import warnings
from collections.abc import Iterator

import onnx.backend.test
import pytest
from adapter import EXECUTOR, WaterlineBackend

# Names of the suite's node tests begin with the operator; an "_expanded" one is the same in simpler operators.
OPERATORS = re.findall(
    r"\w+",
    """
    abs add averagepool basic_conv batchnorm ceil celu clip concat constant constant_pad constantofshape conv
    convtranspose depthtospace div dropout edge_pad elu erf exp expand flatten floor gather gelu gemm globalaveragepool
    globalmaxpool group_normalization hardsigmoid hardswish identity instancenorm layer_normalization leakyrelu log
    log_softmax logsoftmax lppool lrn matmul max maxpool mean min mish mul neg pow prelu reciprocal reduce_l1 reduce_l2
    reduce_log_sum reduce_max reduce_mean reduce_min reduce_sum reduce_sum_square reflect_pad relu reshape resize selu
    sigmoid single_relu_model slice softmax softplus softsign spacetodepth split sqrt squeeze sub sum swish tanh tile
    transpose unsqueeze upsample wrap_pad
    """,
)

NETWORKS = re.findall(
    r"\w+",
    """
    bvlc_alexnet densenet121 inception_v1 inception_v2 resnet50 shufflenet squeezenet vgg19 zfnet512
    """,
)

INCLUDED = [
    *(rf"^test_{operator}(_|$)" for operator in OPERATORS),
    *(rf"^test_{network}$" for network in NETWORKS),
    r"^test_operator_",  # converted from PyTorch operators
    r"^test_[A-Z]",  # converted from PyTorch modules
]

EXCLUDED: dict[str, str] = {
    # One element type is computed.
    r"_u?int(8|16|32|64)(_|$)": "whole numbers are data here, float32 is computed",
    r"^test_reduce_log_sum_exp(?!_empty_set$)": "the data are float64; float32 is computed",
    r"^test_(edge|reflect|wrap)_pad$": "the data are int32",
    r"^test_div_int32_trunc$": "the data are int32",
    r"_(b?float16|float64)(_|$)": "the data are float16, bfloat16 or float64; float32 is computed",
    r"^test_reduce_(max|min)_(bool_inputs|empty_set_bool)$": "the data are bool",
    r"^test_pow_types_": "one of the operands is a whole number",
    r"^test_constantofshape_int_": "the output is int32",
    r"^test_operator_add(_|constant$)": "PyTorch's test was exported with float64",
    r"^test_operator_non_float_params$": "the data are int64",
    r"^test_dropout_.*mask": "the mask, a bool tensor, is an output",
    # What a network in inference does not do.
    r"^test_batchnorm_.*_training_mode$": "training",
    # One and two spatial dimensions are supported.
    r"^test_(averagepool|lppool|maxpool|convtranspose)_3d": "three spatial dimensions",
    r"^test_(AvgPool|MaxPool|Conv)3d": "three spatial dimensions",
    r"^test_maxpool_with_argmax": "the positions of the maxima are an output",
    # Comparing and choosing element by element at run time is not supported; the operators themselves are.
    r"^test_(clip|leakyrelu|prelu)_.*expanded$": "written with Less and Where, the operator itself is tested",
    r"^test_clip_expanded$": "written with Less and Where, the operator itself is tested",
    r"^test_(elu|selu)_(.*_)?expanded_ver18$": "written with Less and Where, the operator itself is tested",
    r"^test_(leakyrelu|prelu)_expanded$": "written with Less and Where, the operator itself is tested",
    # Other operators whose names begin like a supported one.
    r"^test_gather_elements_": "GatherElements, which is not supported",
    r"^test_identity_(opt|sequence)$": "optionals and sequences are not supported",
    r"^test_split_to_sequence_": "SplitToSequence: sequences are not supported",
    # Corners of Resize.
    r"^test_resize_.*_antialias$": "the low-pass filter is not computed",
    r"^test_resize_.*_exclude_outside$": "renormalising cubic weights at the edges is not computed",
    r"^test_resize_.*_half_pixel_symmetric$": "it differs from half_pixel where the size is rounded",
    r"^test_resize_tf_crop_and_resize": "cropping and extrapolation are not computed",
    r"^test_resize_downsample_scales_(cubic|linear)_align_corners$": (
        "the expected values come from a length_resized of 2.4 pixels (ONNX Runtime excludes them, too)"
    ),
    r"^test_resize_downsample_sizes_nearest_not_smaller$": "1.5 rows are rounded up, which no scale of Resize does",
}
if EXECUTOR == "reference":
    EXCLUDED[r"^test_reduce_(max|min)_empty_set$"] = "NumPy knows no largest and no smallest of no elements"


def cases() -> Iterator[tuple[str, dict[str, object]]]:
    """Names of test classes, and their methods."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the suite divides by zero to make its infinities
        suite = onnx.backend.test.BackendTest(WaterlineBackend, __name__)
    for category, case in suite.test_cases.items():
        methods: dict[str, object] = {}
        for full_name, method in vars(case).items():
            name = full_name.removesuffix("_cpu")
            if full_name == name or not any(re.search(pattern, name) for pattern in INCLUDED):
                continue
            reason = next((why for pattern, why in EXCLUDED.items() if re.search(pattern, name)), None)
            methods[name] = method if reason is None else unittest.skip(reason)(method)
        yield category, methods


CASES = dict(cases())
for category, methods in CASES.items():
    globals()[category] = type(category, (unittest.TestCase,), methods)


@pytest.fixture(autouse=True)
def _models_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the suite writes the inputs of the real networks; by default it would be the home folder."""
    monkeypatch.setenv("ONNX_MODELS", str(tmp_path_factory.mktemp("onnx_models")))


@pytest.mark.parametrize("pattern", EXCLUDED)
def test_every_exclusion_excludes_something(pattern: str) -> None:
    assert any(re.search(pattern, name) for methods in CASES.values() for name in methods)


@pytest.mark.parametrize("pattern", INCLUDED)
def test_every_inclusion_includes_something(pattern: str) -> None:
    assert any(re.search(pattern, name) for methods in CASES.values() for name in methods)
