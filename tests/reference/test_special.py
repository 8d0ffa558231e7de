import math

import numpy as np

from waterline.reference import erf


def test_erf_is_accurate_everywhere():
    random = np.random.default_rng(0)
    x = np.concatenate(
        [np.linspace(-7, 7, 20001), random.normal(size=5000), random.normal(size=5000) * 1e-6, [5.999, 1e300]]
    )
    truth = np.array([math.erf(v) for v in x])
    error = np.abs(erf(x) - truth)
    assert error.max() < 1e-15
    assert (error <= 1e-15 * np.abs(truth)).all()  # relative too: small arguments lose nothing


def test_erf_of_special_values():
    values = erf(np.array([np.nan, np.inf, -np.inf, 0.0, -0.0]))
    np.testing.assert_array_equal(values, [np.nan, 1, -1, 0, 0])
    assert np.signbit(values[4])


def test_erf_keeps_the_shape():
    assert erf(np.zeros((2, 0, 3))).shape == (2, 0, 3)
    assert erf(np.float64(0.5)) == math.erf(0.5)
