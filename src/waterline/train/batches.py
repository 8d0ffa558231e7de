"""Batches of augmented images, in an order that can be taken up again at any position.

DataLoader loads, DistributedSampler shuffles and shares out, torchvision's transforms augment. What is added is that an
item's randomness follows from (seed, epoch, index), and that an epoch may begin at any of its batches.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, default_collate

from waterline.errors import InvalidArgument
from waterline.train import vision
from waterline.train.datasets import Data, Dataset
from waterline.train.distributed import Process
from waterline.train.randomness import seeded
from waterline.train.recipe import Recipe

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's images, as everybody's networks
RESIZED = 256 / 224  # the shorter side before the middle is cropped, of the crop
_AUGMENT, _MIX = 1, 2  # what random numbers are for

Key = tuple[int, int]  # epoch, index


@dataclass(frozen=True)
class _Unreadable:
    """An item that could not be made. Errors lose their form on the way out of a loading process; this does not."""

    message: str


class _Prepared:
    """A dataset whose items are ready for the network. (epoch, index) -> (image (3, h, w), label)."""

    def __init__(self, images: Dataset, transform: Any, num_classes: int, seed: int, part: str) -> None:
        self._images, self._transform, self._num_classes = images, transform, num_classes
        self._seed, self._part = seed, part

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, key: Key) -> tuple[torch.Tensor, int] | _Unreadable:
        epoch, index = key
        with seeded(self._seed, _AUGMENT, epoch, index):
            try:
                image, label = self._images[index]
                prepared = self._transform(image)
            except (OSError, ValueError, TypeError, SyntaxError) as error:  # what Pillow and transforms raise
                return _Unreadable(f"{self._part} image {self._where(index)} cannot be read: {error}")
        if not 0 <= int(label) < self._num_classes:
            return _Unreadable(
                f"{self._part} image {self._where(index)} has label {int(label)} of {self._num_classes} classes"
            )
        return torch.as_tensor(prepared), int(label)

    def _where(self, index: int) -> str:
        samples = getattr(self._images, "samples", None)
        return str(samples[index][0]) if samples else str(index)


def _collate(items: list[Any]) -> Any:
    bad = next((item for item in items if isinstance(item, _Unreadable)), None)
    return bad or default_collate(items)


class _Order:
    """A process's batches of keys in one epoch, from a position on. The DataLoader asks for it anew every epoch."""

    def __init__(self, batches: BatchSampler) -> None:
        self._batches, self.epoch, self.position = batches, 0, 0

    def __len__(self) -> int:
        return len(self._batches) - self.position

    def __iter__(self) -> Iterator[list[Key]]:
        for batch in itertools.islice(self._batches, self.position, None):
            yield [(self.epoch, index) for index in batch]


def _loader(images: _Prepared, order: _Order, workers: int, device: torch.device) -> DataLoader:
    return DataLoader(
        images,
        batch_sampler=order,
        num_workers=workers,
        persistent_workers=workers > 0,
        collate_fn=_collate,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # its own: the model's numbers shall not depend on how often loading began
    )


class TrainBatches:
    """What the training loop reads.

    Raises:
        InvalidArgument: a batch that processes cannot share, or more than there are images.
    """

    def __init__(self, data: Data, recipe: Recipe, process: Process, workers: int) -> None:
        if recipe.batch_size % process.count:
            raise InvalidArgument(
                f"a batch of {recipe.batch_size} images cannot be shared by {process.count} processes",
                f"use a multiple of {process.count}",
            )
        if recipe.batch_size > len(data.train):
            raise InvalidArgument(
                f"a batch of {recipe.batch_size} images is more than the {len(data.train)} that {data.name} has",
                f"use at most {len(data.train)}",
            )
        each = recipe.batch_size // process.count
        self._sampler = DistributedSampler(
            data.train,
            process.count,
            process.rank,
            seed=recipe.seed,
            drop_last=True,
        )
        self._order = _Order(BatchSampler(self._sampler, each, drop_last=True))
        self.count = len(data.train) // recipe.batch_size  # of an epoch
        images = _Prepared(data.train, augmentation(data, recipe), len(data.classes), recipe.seed, "training")
        self._loader = _loader(images, self._order, workers, process.device)
        self._mix, self._seed, self._process = _mixing(len(data.classes), recipe), recipe.seed, process

    def epoch(self, epoch: int, position: int = 0) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Images (n, 3, h, w) and labels (n) or shares of classes (n, classes), on the device.

        Raises:
            InvalidArgument: an image that cannot be read, or a label that is no class.
        """
        self._sampler.set_epoch(epoch)
        self._order.epoch, self._order.position = epoch, position
        batches = itertools.islice(self._loader, self.count - position)
        for at, (images, labels) in enumerate(map(_whole, batches), start=position):
            images = images.to(self._process.device, non_blocking=True)
            labels = labels.to(self._process.device, non_blocking=True)
            if self._mix is not None:
                with seeded(self._seed, _MIX, epoch, at, self._process.rank):
                    images, labels = self._mix(images, labels)
            yield images, labels


class ValidationBatches:
    """The images that accuracy is measured on: a process's share of them, in order, without chance."""

    def __init__(self, data: Data, batch_size: int, process: Process, workers: int = 0) -> None:
        share = range(process.rank, len(data.val), process.count)
        self._order = _Order(BatchSampler(share, batch_size, drop_last=False))
        images = _Prepared(data.val, preparation(data), len(data.classes), 0, "validation")
        self._loader = _loader(images, self._order, workers, process.device)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Images (n, 3, h, w) and labels (n), not on the device yet."""
        return map(_whole, self._loader)


def _whole(batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
    if isinstance(batch, _Unreadable):
        raise InvalidArgument(batch.message, "mend it or take it out")
    images, labels = batch
    return images, labels


def augmentation(data: Data, recipe: Recipe) -> Any:
    """The transform of a training image: crop, mirror, RandAugment, normalise, erase."""
    v2 = vision.module("torchvision.transforms.v2")
    steps = [
        v2.ToImage(),
        v2.RGB(),
        v2.RandomResizedCrop(data.image_size, scale=(recipe.crop_scale, 1.0), antialias=True),
    ]
    if recipe.flip and data.is_mirrorable:
        steps.append(v2.RandomHorizontalFlip(recipe.flip))
    if recipe.randaugment_ops:
        steps.append(v2.RandAugment(recipe.randaugment_ops, recipe.randaugment_magnitude))
    steps += [v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, DEVIATION)]
    if recipe.erasing:
        steps.append(v2.RandomErasing(recipe.erasing))
    return v2.Compose([*steps, v2.ToPureTensor()])


def preparation(data: Data) -> Any:
    """The transform of a validation image: small ones are scaled to the size, larger ones scaled and cropped."""
    v2 = vision.module("torchvision.transforms.v2")
    size = data.image_size if data.is_small else round(data.image_size * RESIZED)
    return v2.Compose(
        [
            v2.ToImage(),
            v2.RGB(),
            v2.Resize(size, antialias=True),
            v2.CenterCrop(data.image_size),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, DEVIATION),
            v2.ToPureTensor(),
        ]
    )


def _mixing(num_classes: int, recipe: Recipe) -> Any:
    """mixup or cutmix, one of them by chance for each batch; None without both."""
    v2 = vision.module("torchvision.transforms.v2")
    ways = []
    if recipe.mixup:
        ways.append(v2.MixUp(alpha=recipe.mixup, num_classes=num_classes))
    if recipe.cutmix:
        ways.append(v2.CutMix(alpha=recipe.cutmix, num_classes=num_classes))
    if not ways or not recipe.mix_probability:
        return None
    return v2.RandomApply([v2.RandomChoice(ways)], p=recipe.mix_probability)
