"""Those who look on while a network is trained: a terminal, a log of lines, TensorBoard."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from waterline.errors import InvalidArgument


@dataclass(frozen=True)
class Step:
    """What is known after a step.

    Attributes:
        step, steps: done and in all. epoch: from 0. loss: of this step, mean over its images.
        learning_rate: of this step. images_per_s: over the last steps. seconds_left: of the whole run.
    """

    step: int
    steps: int
    epoch: int
    loss: float
    learning_rate: float
    images_per_s: float
    seconds_left: float


@dataclass(frozen=True)
class Epoch:
    """What is known after an epoch.

    Attributes:
        epoch: from 0. step: done in all. train_loss: mean over its steps. learning_rate: of its last step.
        val_accuracy: share of the validation images that are right, in [0, 1]. ema_accuracy: of the average of the
            weights; None without one.
        seconds: that it took, with validation.
    """

    epoch: int
    step: int
    train_loss: float
    learning_rate: float
    val_accuracy: float
    ema_accuracy: float | None
    seconds: float


class Watcher:
    """Looks on, and does nothing: a class to derive from. Only the first of several processes calls its watchers."""

    def begin(self, step: int, steps: int, epochs: int) -> None:
        """Training begins (or goes on) after `step` of `steps`."""

    def say(self, text: str) -> None:
        """A line for people."""

    def step(self, at: Step) -> None:
        """A step is done. Not all are told on a GPU."""

    def epoch(self, at: Epoch) -> None:
        """An epoch is done."""

    def end(self) -> None:
        """No more will come, also after an error."""


class TensorBoard(Watcher):
    """Scalars for TensorBoard: loss, learning rate and images a second by step; accuracies by step, once an epoch.

    A run that goes on after a kill replaces what was written after its checkpoint.

    Raises:
        InvalidArgument: the package tensorboard is not installed.
    """

    def __init__(self, folder: str | Path) -> None:
        try:
            self._package = importlib.import_module("torch.utils.tensorboard")
        except ImportError as error:
            raise InvalidArgument(
                "TensorBoard's scalars need the package tensorboard, which is not installed",
                "pip install 'waterline[train]', or pass --no-tensorboard",
            ) from error
        self._folder = folder
        self._writer: Any = None

    def begin(self, step: int, steps: int, epochs: int) -> None:
        self._writer = self._package.SummaryWriter(str(self._folder), purge_step=step + 1 if step else None)

    def step(self, at: Step) -> None:
        self._writer.add_scalar("train/loss", at.loss, at.step)
        self._writer.add_scalar("train/learning_rate", at.learning_rate, at.step)
        self._writer.add_scalar("train/images_per_s", at.images_per_s, at.step)

    def epoch(self, at: Epoch) -> None:
        self._writer.add_scalar("val/accuracy", at.val_accuracy, at.step)
        if at.ema_accuracy is not None:
            self._writer.add_scalar("val/ema_accuracy", at.ema_accuracy, at.step)
        self._writer.flush()

    def end(self) -> None:
        if self._writer is not None:
            self._writer.close()


class Lines(Watcher):
    """A line an epoch on stderr, and one a minute between: for logs, and where rich is not installed."""

    SECONDS = 60.0

    def __init__(self) -> None:
        self._epochs = 0
        self._last = time.monotonic()
        self._left = 0.0

    def begin(self, step: int, steps: int, epochs: int) -> None:
        self._epochs = epochs

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def step(self, at: Step) -> None:
        self._left = at.seconds_left
        if time.monotonic() - self._last > self.SECONDS:
            self._last = time.monotonic()
            self.say(f"step {at.step} of {at.steps}: {_facts(at)}, {duration(at.seconds_left)} left")

    def epoch(self, at: Epoch) -> None:
        self._last = time.monotonic()
        self.say(f"{summary(at, self._epochs)}, {duration(self._left)} left")


class Bar(Watcher):
    """A bar of rich on stderr, with the time left, below the lines of the epochs that are done.

    Args:
        console: a console of rich to draw on; None: stderr.
    """

    def __init__(self, console: Any = None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[facts]}"),
            TextColumn("{task.fields[left]}"),
        )
        console = console or Console(stderr=True, highlight=False)
        self._progress = Progress(*columns, console=console, transient=True)
        self._task: Any = None
        self._epochs = 0

    def begin(self, step: int, steps: int, epochs: int) -> None:
        self._epochs = epochs
        self._task = self._progress.add_task("training", total=steps, completed=step, facts="", left="")
        self._progress.start()

    def say(self, text: str) -> None:
        self._progress.console.print(text, markup=False)

    def step(self, at: Step) -> None:
        self._progress.update(
            self._task,
            completed=at.step,
            description=f"epoch {at.epoch + 1}/{self._epochs}",
            facts=_facts(at),
            left=f"{duration(at.seconds_left)} left",
        )

    def epoch(self, at: Epoch) -> None:
        self.say(summary(at, self._epochs))

    def end(self) -> None:
        self._progress.stop()


def terminal() -> Watcher:
    """A bar on a terminal where rich is installed, else lines."""
    if sys.stderr.isatty() and importlib.util.find_spec("rich") is not None:
        return Bar()
    return Lines()


def summary(at: Epoch, epochs: int) -> str:
    average = "" if at.ema_accuracy is None else f", of the average {100 * at.ema_accuracy:.2f} %"
    return (
        f"epoch {at.epoch + 1} of {epochs}: loss {at.train_loss:.4f}, "
        f"accuracy {100 * at.val_accuracy:.2f} %{average}, {duration(at.seconds)}"
    )


def _facts(at: Step) -> str:
    return f"loss {at.loss:.3f}, {at.images_per_s:.0f} images/s"


def duration(seconds: float) -> str:
    """A time for people: "48 s", "12 min 5 s", "3 h 7 min"."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"
