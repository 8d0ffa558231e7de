"""Both networks trained on the digits with one recipe, seed by seed: a record for each run.

A run's folder has its checkpoints, one an epoch: what was interrupted goes on, and what is complete is only read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from waterline.bench.experiments import Listener
from waterline.bench.experiments.training_networks import IMAGE_SIZE, Contestant, parameter_count
from waterline.bench.records import Record

if TYPE_CHECKING:
    from waterline import train

PROTOCOL = "experiment training: accuracy"
DATA = "digits"
SEEDS, EPOCHS = 5, 10
# That of the recipe for small images, which was settled on with these very digits and mostly with ConvFirst; and a
# lower one, so that it is seen what of a difference between the networks is the rate's.
LEARNING_RATES = (4e-3, 1e-3)
# What is left out of the recipe for small images: mirrored digits are other signs (the data say so themselves), and
# RandAugment's operations are mostly of colour and exposure, which these images do not have.
CHANGES = {"randaugment_ops": 0, "flip": 0.0}


def recipe(epochs: int, seed: int, learning_rate: float) -> train.Recipe:
    """The same for both networks.

    Raises:
        InvalidArgument: a learning rate that makes no sense.
    """
    from waterline import train

    return train.Recipe.small(epochs=epochs, seed=seed, learning_rate=learning_rate, **CHANGES)


def measure(
    networks: Sequence[Contestant], learning_rates: Sequence[float], seeds: int, epochs: int, threads: int,
    folder: Path, limit: int | None, listener: Listener,
) -> Iterator[Record]:  # fmt: skip
    """The record of one run after the other: for every learning rate all seeds, for every seed all networks.

    Args:
        seeds: how many, from 0 on: of the weights, the order of images, their augmentation and stochastic depth.
        folder: for the runs' checkpoints. limit: at most so many training images, to try things.

    Raises:
        InvalidArgument: PyTorch, torchvision or scikit-learn is not installed; a folder has runs of another kind.
    """
    from waterline import train

    data = train.open_data(DATA, IMAGE_SIZE)
    data = data if limit is None else data.limited(limit)
    recipes = [recipe(epochs, seed, rate) for rate in learning_rates for seed in range(seeds)]
    for each in recipes:
        for network in networks:
            what = f"{network.name}, rate {each.learning_rate:g}, seed {each.seed + 1} of {seeds}"
            yield run(network, data, each, threads, folder, what, listener)


def run(
    network: Contestant, data: train.Data, recipe: train.Recipe, threads: int, folder: Path, what: str,
    listener: Listener,
) -> Record:  # fmt: skip
    """Train one network with one seed, or go on with it, and compare it with itself in Waterline."""
    from waterline import train

    model = network.build(recipe.seed, recipe.drop_path)
    settings = f"{recipe.epochs}-epochs-rate-{recipe.learning_rate:g}-seed-{recipe.seed}"
    where = folder / f"{network.name}-{data.name.replace(':', '-')}-{settings}"
    told = [_watcher(what, recipe.epochs, listener)]
    result = train.fit(model, data, recipe, folder=where, is_resuming=True, watchers=told, num_threads=threads)
    found = train.verify(result.trained, data)
    last = result.history[-1]
    return {
        "protocol": PROTOCOL,
        "model": network.name,
        "engine": "torch",
        "dtype": "float32",
        "batch": recipe.batch_size,
        "threads": threads,
        "data": data.name,
        "learning_rate": recipe.learning_rate,
        "seed": recipe.seed,
        "sizes": {name: list(size) if isinstance(size, tuple) else size for name, size in network.sizes.items()},
        "parameters": parameter_count(result.model),
        "images": [len(data.train), len(data.val)],
        "image_size": data.image_size,
        "recipe": {name: value for name, value in recipe.to_dict().items() if name != "seed"},
        "accuracy": last.val_accuracy,
        "ema_accuracy": last.ema_accuracy,
        "train_loss": last.train_loss,
        "train_seconds": sum(epoch.seconds for epoch in result.history),
        "history": [asdict(epoch) for epoch in result.history],
        "compiled": {
            "accuracy": found.waterline_accuracy,
            "differing": found.differing,
            "largest_difference": found.largest_difference,
            "largest_score": found.largest_score,
        },
    }


def versions() -> dict[str, str]:
    """Of what the accuracy depends on."""
    return {name: metadata.version(name) for name in ("torch", "torchvision", "scikit-learn")}


def _watcher(what: str, epochs: int, listener: Listener) -> Any:
    from waterline.train import Epoch, Step, Watcher

    class _Shower(Watcher):
        def step(self, at: Step) -> None:
            listener.show(f"{what}: step {at.step} of {at.steps}, loss {at.loss:.3f}, {at.seconds_left:.0f} s left")

        def epoch(self, at: Epoch) -> None:
            listener.show(f"{what}: epoch {at.epoch + 1} of {epochs}, accuracy {100 * at.val_accuracy:.1f} %")

    return _Shower()
