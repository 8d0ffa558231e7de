"""Recipes: what they accept, and what the command makes of its options."""

from __future__ import annotations

import pytest

from waterline.errors import InvalidArgument
from waterline.train import Recipe


def test_the_small_one_fits_any_number_of_epochs() -> None:
    for epochs in (1, 2, 3, 50):
        recipe = Recipe.small(epochs=epochs)
        assert recipe.warmup_epochs == min(2, epochs - 1)
    assert Recipe.small(epochs=9, warmup_epochs=4).warmup_epochs == 4
    assert Recipe(**Recipe.small(mixup=0.5).to_dict()) == Recipe.small(mixup=0.5)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("epochs", 0), ("batch_size", 0), ("learning_rate", 0.0), ("learning_rate", float("nan"))),
        *(("label_smoothing", 1.0), ("drop_path", 1.0), ("ema_decay", 1.0), ("crop_scale", 0.0), ("mixup", -1.0)),
        *(("randaugment_magnitude", 31), ("precision", "float8"), ("seed", -1), ("clip_norm", -0.1)),
    ],
)
def test_values_that_make_no_sense(name: str, value: float) -> None:
    with pytest.raises(InvalidArgument, match=name) as raised:
        Recipe(**{name: value})
    assert raised.value.hint


def test_a_warm_up_longer_than_training() -> None:
    with pytest.raises(InvalidArgument, match="warmup_epochs is 20 of 10 epochs"):
        Recipe(epochs=10)
