"""Batches: every image once, shared out, augmented, and the same however they are loaded."""

from __future__ import annotations

import itertools

import pytest
import torch

from waterline import train
from waterline.errors import InvalidArgument
from waterline.train.batches import TrainBatches, ValidationBatches
from waterline.train.distributed import Process

CPU = torch.device("cpu")
ONE = Process(0, 1, CPU)


def plain(recipe: train.Recipe, **changes: float) -> train.Recipe:
    """Without anything that changes images, but for the crop."""
    values = {**recipe.to_dict(), "mixup": 0, "cutmix": 0, "randaugment_ops": 0, "crop_scale": 1.0, **changes}
    return train.Recipe(**values)


class Numbered:
    """Images of one grey each, by which they are known."""

    def __len__(self) -> int:
        return 50

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.full((1, 8, 8), index * 5, dtype=torch.uint8), index % 10


def seen(batches: TrainBatches, epoch: int) -> list[list[int]]:
    red = [images[:, 0, 0, 0] * 0.229 + 0.485 for images, _ in batches.epoch(epoch)]
    return [[round(float(value) * 255 / 5) for value in batch] for batch in red]


def test_every_image_at_most_once_and_in_another_order_each_epoch(recipe: train.Recipe) -> None:
    data = train.Data(Numbered(), Numbered(), tuple("0123456789"), 8)
    batches = TrainBatches(data, plain(recipe, batch_size=8), ONE, 0)
    assert batches.count == 6
    first, second = seen(batches, 0), seen(batches, 1)
    for order in (first, second):
        assert [len(batch) for batch in order] == [8] * 6
        assert len(set(itertools.chain(*order))) == 48
    assert first != second
    assert seen(batches, 0) == first


def test_processes_share_each_batch(recipe: train.Recipe) -> None:
    data = train.Data(Numbered(), Numbered(), tuple("0123456789"), 8)
    values = plain(recipe, batch_size=8)
    alone = seen(TrainBatches(data, values, ONE, 0), 2)
    shares = [seen(TrainBatches(data, values, Process(rank, 2, CPU), 0), 2) for rank in range(2)]
    together = [sorted(a + b) for a, b in zip(*shares, strict=True)]
    assert together == [sorted(batch) for batch in alone]
    found = [
        label for rank in range(3) for _, share in ValidationBatches(data, 4, Process(rank, 3, CPU)) for label in share
    ]
    assert len(found) == 50


def test_loading_in_other_processes_and_beginning_anywhere_change_nothing(
    digits: train.Data, recipe: train.Recipe
) -> None:
    expected = list(TrainBatches(digits, recipe, ONE, 0).epoch(1))
    assert len(expected) == 4
    for images, _ in expected:
        assert images.shape == (32, 3, 16, 16)
    elsewhere = TrainBatches(digits, recipe, ONE, 2)
    for position in (0, 3):
        found = list(elsewhere.epoch(1, position))
        assert len(found) == 4 - position
        for (a, b), (c, d) in zip(expected[position:], found, strict=True):
            assert torch.equal(a, c)
            assert torch.equal(b, d)
    del elsewhere
    first = next(TrainBatches(digits, recipe, ONE, 0).epoch(0))
    assert not torch.equal(first[0], expected[0][0])


def test_the_model_s_random_numbers_do_not_depend_on_loading(digits: train.Data, recipe: train.Recipe) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    for _ in TrainBatches(digits, recipe, ONE, 0).epoch(0):
        pass
    assert torch.equal(torch.rand(3), expected)


def test_mixed_batches_have_shares_of_classes(digits: train.Data, recipe: train.Recipe) -> None:
    always = train.Recipe(**{**recipe.to_dict(), "mix_probability": 1.0, "mixup": 1.0})
    classes = []
    for _, labels in TrainBatches(digits, always, ONE, 0).epoch(0):
        assert labels.shape == (32, 10)
        assert torch.allclose(labels.sum(1), torch.ones(32))
        classes += (labels > 0).sum(1).tolist()
    assert set(classes) == {1, 2}
    for _, labels in TrainBatches(digits, plain(recipe), ONE, 0).epoch(0):
        assert labels.shape == (32,)


def test_digits_are_not_mirrored(recipe: train.Recipe) -> None:
    class Slope:
        def __len__(self) -> int:
            return 16

        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            return torch.arange(0, 160, 10, dtype=torch.uint8).expand(1, 16, 16), 0

    def mirrored(is_mirrorable: bool) -> int:
        data = train.Data(Slope(), Slope(), ("a", "b"), 16, is_mirrorable=is_mirrorable)
        images, _ = next(TrainBatches(data, plain(recipe, batch_size=16), ONE, 0).epoch(0))
        return int((images[:, 0, 0, 0] > images[:, 0, 0, -1]).sum())

    assert mirrored(False) == 0
    assert 0 < mirrored(True) < 16


def test_batches_that_cannot_be(digits: train.Data, recipe: train.Recipe) -> None:
    with pytest.raises(InvalidArgument, match="more than the 128"):
        TrainBatches(digits, plain(recipe, batch_size=129), ONE, 0)
    with pytest.raises(InvalidArgument, match="shared by 3 processes"):
        TrainBatches(digits, recipe, Process(0, 3, CPU), 0)
