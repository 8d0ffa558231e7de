"""Seeds that follow from what they are for, and generators that are put back."""

from __future__ import annotations

import io
import random

import numpy as np
import torch

from waterline.train import randomness


def draw() -> tuple[float, float, float]:
    return float(torch.rand(())), float(np.random.random()), random.random()


def test_the_same_numbers_for_the_same_purpose() -> None:
    with randomness.seeded(1, 2, 3):
        first = draw()
    with randomness.seeded(1, 2, 3):
        assert draw() == first
    for other in ((1, 2, 4), (1, 2), (3, 2, 1), (0,)):
        with randomness.seeded(*other):
            assert not set(draw()) & set(first)


def test_generators_go_on_where_they_were() -> None:
    before = randomness.state(None)
    expected = [draw() for _ in range(3)]
    randomness.restore(before, None)
    found = []
    for index in range(3):
        with randomness.seeded(index):
            draw()
        found.append(draw())
    assert found == expected


def test_a_state_can_be_stored_without_pickled_code() -> None:
    file = io.BytesIO()
    torch.save(randomness.state(None), file)
    expected = [draw() for _ in range(3)] + [(float(torch.randn(())), np.random.standard_normal(), random.gauss(0, 1))]
    file.seek(0)
    randomness.restore(torch.load(file, weights_only=True), None)
    assert [draw() for _ in range(3)] + [
        (float(torch.randn(())), np.random.standard_normal(), random.gauss(0, 1))
    ] == expected
