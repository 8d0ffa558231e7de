from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from waterline.graph.ops import BINARY_KINDS, Binary, PRelu, Unary
from waterline.reference import evaluate
from waterline.spec import ACTIVATIONS, Activation

from .oracles import assert_close, tensor

SPECIAL = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-300, 700.0, -700.0, 1e300, -1e300]
X = np.concatenate([np.random.default_rng(0).normal(size=400) * 4, np.linspace(-8, 8, 65), SPECIAL])

ORACLES: dict[str, tuple[tuple[float, ...], Callable[[torch.Tensor], torch.Tensor]]] = {
    "relu": ((), F.relu),
    "leaky_relu": ((0.1,), lambda x: F.leaky_relu(x, 0.1)),
    "clip": ((-1.5, 6.0), lambda x: torch.clamp(x, -1.5, 6.0)),
    "sigmoid": ((), torch.sigmoid),
    "hard_sigmoid": ((1 / 6, 0.5), F.hardsigmoid),
    "hard_swish": ((), F.hardswish),
    "silu": ((), F.silu),
    "gelu": ((), F.gelu),
    "gelu_tanh": ((), lambda x: F.gelu(x, approximate="tanh")),
    "tanh": ((), torch.tanh),
    "elu": ((0.7,), lambda x: F.elu(x, 0.7)),
    "selu": ((1.6732632423543772, 1.0507009873554805), F.selu),
    "softplus": ((), lambda x: torch.logaddexp(x, torch.zeros_like(x))),
    "softsign": ((), F.softsign),
    "mish": ((), F.mish),
    "exp": ((), torch.exp),
    "log": ((), torch.log),
    "sqrt": ((), torch.sqrt),
    "erf": ((), torch.erf),
    "abs": ((), torch.abs),
    "neg": ((), torch.neg),
    "reciprocal": ((), torch.reciprocal),
    "floor": ((), torch.floor),
    "ceil": ((), torch.ceil),
    "square": ((), torch.square),
}


def test_every_activation_has_an_oracle():
    assert set(ORACLES) == set(ACTIVATIONS)


@pytest.mark.parametrize("kind", ORACLES)
def test_activation(kind):
    params, oracle = ORACLES[kind]
    # At infinity some of PyTorch's kernels take a short cut where the formula says infinity * 0 = NaN.
    x = X[np.isfinite(X) & (np.abs(X) < 1e3)]
    actual, expected = evaluate(Unary(Activation(kind, params)), [x]), oracle(tensor(x)).numpy()
    np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-15, equal_nan=True)


@pytest.mark.parametrize("kind", ORACLES)
def test_nan_propagates(kind):
    assert np.isnan(evaluate(Unary(Activation(kind, ORACLES[kind][0])), [np.array([np.nan])])).all()


@pytest.mark.parametrize(
    ("kind", "params", "low", "high"),
    [
        ("relu", (), 0, np.inf),
        ("clip", (0.0, 6.0), 0, 6),
        ("sigmoid", (), 0, 1),
        ("hard_sigmoid", (0.2, 0.5), 0, 1),
        ("tanh", (), -1, 1),
        ("erf", (), -1, 1),
        ("softplus", (), 0, np.inf),
        ("elu", (2.0,), -2, np.inf),
        ("silu", (), np.nan, np.inf),
        ("gelu", (), np.nan, np.inf),
        ("hard_swish", (), np.nan, np.inf),
    ],
)
def test_infinity_follows_the_formula(kind, params, low, high):
    values = evaluate(Unary(Activation(kind, params)), [np.array([-np.inf, np.inf])])
    np.testing.assert_array_equal(values, [low, high])


@pytest.mark.parametrize("kind", BINARY_KINDS)
def test_binary(kind):
    oracle = {
        "add": torch.add, "sub": torch.sub, "mul": torch.mul, "div": torch.div,
        "max": torch.maximum, "min": torch.minimum, "pow": torch.pow,
    }[kind]  # fmt: skip
    random = np.random.default_rng(1)
    a, b = random.normal(size=(2, 3, 1, 5)), random.normal(size=(4, 1))
    a[0, 0, 0, 0], a[0, 1, 0, 1], b[1, 0] = np.nan, np.inf, -np.inf
    assert_close(evaluate(Binary(kind), [a, b]), oracle(tensor(a), tensor(b)))
    relu = Binary(kind, after=Activation("relu"))
    assert_close(evaluate(relu, [a, b]), F.relu(oracle(tensor(a), tensor(b))))


def test_prelu():
    random = np.random.default_rng(2)
    x, slope = random.normal(size=(2, 3, 4, 4)), random.normal(size=3)
    x[0, 0, 0, 0] = np.nan
    assert_close(evaluate(PRelu(), [x, slope.reshape(3, 1, 1)]), F.prelu(tensor(x), tensor(slope)))
