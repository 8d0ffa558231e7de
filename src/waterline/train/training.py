"""Training: the loop, what a checkpoint holds, and what a run gives back."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from waterline.errors import Error, InvalidArgument
from waterline.train import randomness
from waterline.train.architecture import check_image_size, describe
from waterline.train.batches import TrainBatches, ValidationBatches
from waterline.train.checkpoint import Checkpoints, State
from waterline.train.datasets import Data
from waterline.train.distributed import Process, joined
from waterline.train.evaluation import autocast, evaluate
from waterline.train.optimisation import (
    build_average,
    build_loss,
    build_optimizer,
    build_schedule,
    resolve_precision,
    use_recipes_kernels,
)
from waterline.train.recipe import Recipe
from waterline.train.watching import Epoch, Step, Watcher

_MODEL = 3  # what random numbers are for, beside those of `batches`
_GPU_STEPS = 20  # a GPU is asked for its losses once in so many steps: each question waits for it


@dataclass(frozen=True)
class Result:
    """A run's outcome.

    Attributes:
        model: with the weights of the last step, on the device that it was trained on.
        average: the same network with the average of the weights; None if the recipe has none.
        history: an entry an epoch, those before an interruption included.
        recipe: that it was trained with.
    """

    model: nn.Module
    average: nn.Module | None
    history: tuple[Epoch, ...]
    recipe: Recipe

    @property
    def trained(self) -> nn.Module:
        """The network to use: the average where there is one. Choosing the better would be looking at the answers."""
        return self.model if self.average is None else self.average

    @property
    def accuracy(self) -> float:
        """Of `trained`, after the last epoch, on the validation images, in [0, 1]."""
        last = self.history[-1]
        return last.val_accuracy if last.ema_accuracy is None else last.ema_accuracy


def fit(
    model: nn.Module,
    data: Data,
    recipe: Recipe,
    *,
    folder: str | Path | None = None,
    is_resuming: bool = False,
    checkpoint_steps: int | None = None,
    watchers: Sequence[Watcher] = (),
    device: str = "auto",
    workers: int = 0,
    num_threads: int | None = None,
) -> Result:
    """Train a network. Under torchrun, every process calls this, and they train together.

    The same call gives the same weights, bit for bit, on the same CPU with as many threads and processes; also if it
    was interrupted and goes on from a checkpoint.

    Args:
        model: images (n, 3, image_size, image_size) -> scores (n, classes), in its initial state. It is trained in
            place. Its own stochastic depth is its builder's matter: `build_model(..., drop_path_rate=...)`.
        folder: for checkpoints, at the end of every epoch; None writes none.
        is_resuming: go on from the latest checkpoint in the folder; from the beginning if there is none.
        checkpoint_steps: one more checkpoint every so many steps within an epoch; None: none.
        watchers: are told of every step and epoch.
        device: "auto" (a GPU if there is one), "cpu", "cuda".
        workers: processes that load images; 0: this one does. The result does not depend on it.
        num_threads: of PyTorch on the CPU; None: as many as it has.

    Raises:
        InvalidArgument: what does not fit: batch and processes, image size and network, checkpoint and recipe, or
            images that cannot be read.
        Error: the loss is not finite, or a checkpoint cannot be written.
    """
    with joined(device) as process, randomness.seeded(recipe.seed, _MODEL, process.rank), _settings(num_threads):
        if process.device.type == "cuda":
            torch.cuda.manual_seed(torch.initial_seed())
        told = list(watchers) if process.is_first else []
        try:
            return _Run(model, data, recipe, process, folder, checkpoint_steps, told, workers).train(is_resuming)
        finally:
            for watcher in told:
                watcher.end()


@contextmanager
def _settings(num_threads: int | None) -> Iterator[None]:
    """PyTorch's operations in their repeatable forms, where they have one, and its threads; as before afterwards."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    threads = torch.get_num_threads()
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.set_num_threads(num_threads or threads)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.set_num_threads(threads)


class _Run:
    """One call of `fit`: what it works with, and where it is."""

    def __init__(
        self,
        model: nn.Module,
        data: Data,
        recipe: Recipe,
        process: Process,
        folder: str | Path | None,
        checkpoint_steps: int | None,
        watchers: list[Watcher],
        workers: int,
    ) -> None:
        if checkpoint_steps is not None and checkpoint_steps < 1:
            raise InvalidArgument(f"checkpoint_steps is {checkpoint_steps}", "use at least 1, or None")
        check_image_size(model, data.image_size, len(data.classes))
        self.recipe, self.process, self.watchers = recipe, process, watchers
        self.precision = resolve_precision(recipe.precision, process.device)
        self.batches = TrainBatches(data, recipe, process, workers)
        self.validation = ValidationBatches(data, max(1, recipe.batch_size // process.count), process, workers)
        self.model = model.to(process.device, memory_format=torch.channels_last).train()
        use_recipes_kernels(self.model, recipe.kernels, process.device)
        self.average = build_average(self.model, recipe.ema_decay) if recipe.ema_decay else None
        self.optimizer = build_optimizer(self.model, recipe)
        self.schedule = build_schedule(self.optimizer, recipe, self.batches.count)
        self.scaler = torch.amp.GradScaler(process.device.type, enabled=self.precision == torch.float16)
        self.loss = build_loss(recipe)
        self.checkpoints = None if folder is None else Checkpoints(folder, self.say)
        self.checkpoint_steps = checkpoint_steps
        self.configuration = self._configuration(data)
        # Where it is: epochs and, in this one, steps that are done; the sum of these steps' losses.
        self.epoch = self.position = 0
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=process.device)
        self.history: list[Epoch] = []

    @property
    def step(self) -> int:
        """Steps that are done, in all."""
        return self.epoch * self.batches.count + self.position

    @property
    def steps(self) -> int:
        return self.recipe.epochs * self.batches.count

    def say(self, text: str) -> None:
        for watcher in self.watchers:
            watcher.say(text)

    # ---- the loop ----------------------------------------------------------------------------------------------------
    def train(self, is_resuming: bool) -> Result:
        if self.checkpoints is not None:
            self._take_up(self.checkpoints, is_resuming)
        elif is_resuming:
            raise InvalidArgument("without a folder there is nothing to resume", "give the folder of the checkpoints")
        device = self.process.device
        network: nn.Module = self.model
        if self.process.count > 1:
            ids = [device.index] if device.type == "cuda" else None
            # Of the random state this draws nothing; of the weights it takes the first process's.
            network = DistributedDataParallel(self.model, device_ids=ids)
        for watcher in self.watchers:
            watcher.begin(self.step, self.steps, self.recipe.epochs)
        self.started, self.first = time.monotonic(), self.step
        while self.epoch < self.recipe.epochs:
            self._train_epoch(network)
        average = None if self.average is None else self.average.module
        return Result(self.model.eval(), average and average.eval(), tuple(self.history), self.recipe)

    def _train_epoch(self, network: nn.Module) -> None:
        began, rate = time.monotonic(), 0.0
        for images, labels in self.batches.epoch(self.epoch, self.position):
            rate = self.optimizer.param_groups[0]["lr"]
            loss = self._train_step(network, images.contiguous(memory_format=torch.channels_last), labels)
            self.loss_sum += loss.double()
            self.position += 1
            is_last = self.position == self.batches.count
            if self.process.device.type == "cpu" or is_last or self.step % _GPU_STEPS == 0:
                self._tell(float(loss), rate)
            if self.checkpoint_steps and self.step % self.checkpoint_steps == 0 and not is_last:
                self._save()
        self._end_epoch(began, rate)

    def _train_step(self, network: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        with autocast(self.process.device, self.precision):
            loss = self.loss(network(images), labels)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        if self.recipe.clip_norm:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()
        if self.average is not None:
            self.average.update_parameters(self.model)
        return loss.detach()

    def _tell(self, loss: float, rate: float) -> None:
        if not math.isfinite(loss):
            raise Error(f"the loss is {loss} at step {self.step}", "a lower learning rate or a clip_norm of 1 may help")
        each = (time.monotonic() - self.started) / (self.step - self.first)
        left = each * (self.steps - self.step)
        at = Step(self.step, self.steps, self.epoch, loss, rate, self.recipe.batch_size / each, left)
        for watcher in self.watchers:
            watcher.step(at)

    def _end_epoch(self, began: float, rate: float) -> None:
        accuracy = evaluate(self.model, self.validation, self.process, self.precision)
        average = None
        if self.average is not None:
            average = evaluate(self.average.module, self.validation, self.process, self.precision)
        total = self.process.sum([float(self.loss_sum)])[0]
        mean = total / self.process.count / self.batches.count
        at = Epoch(self.epoch, self.step, mean, rate, accuracy, average, time.monotonic() - began)
        self.history.append(at)
        self.epoch, self.position = self.epoch + 1, 0
        self.loss_sum.zero_()
        for watcher in self.watchers:
            watcher.epoch(at)
        self._save()

    # ---- checkpoints -------------------------------------------------------------------------------------------------
    def _configuration(self, data: Data) -> dict[str, Any]:
        """What has to be the same for a run to go on as if it had not been interrupted."""
        return {
            **self.recipe.to_dict(),
            **describe(self.model),
            "data": data.name,
            "training images": len(data.train),
            "validation images": len(data.val),
            "classes": list(data.classes),
            "image size": data.image_size,
            "processes": self.process.count,
            "precision": str(self.precision).removeprefix("torch."),
        }

    def _save(self) -> None:
        if self.checkpoints is None:
            return
        # Every process has generators and a sum of losses of its own; of the rest the first one's is everybody's.
        own = self.process.gather(
            {"random": randomness.state(self.process.device), "loss_sum": float(self.loss_sum)},
        )
        if self.process.is_first:
            state: State = {
                "configuration": self.configuration,
                "made_with": _software(self.process.device),
                "epoch": self.epoch,
                "position": self.position,
                "history": [dataclasses.asdict(each) for each in self.history],
                "own": own,
                "model": self.model.state_dict(),
                "average": None if self.average is None else self.average.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state_dict(),
                "scaler": self.scaler.state_dict(),
            }
            self.checkpoints.save(state, self.step)

    def _take_up(self, checkpoints: Checkpoints, is_resuming: bool) -> None:
        """Go on from the latest checkpoint, which the first process reads for all: they may share no disk."""
        state: State | Error | None = None
        if self.process.is_first:
            try:
                state = self._find(checkpoints, is_resuming)
            except Error as error:  # the others wait for an answer
                state = error
        state = self.process.from_first(state)
        if isinstance(state, Error):
            raise state
        if state is None:
            return
        self.model.load_state_dict(state["model"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.scaler.load_state_dict(state["scaler"])
        self.epoch, self.position = state["epoch"], state["position"]
        self.history = [Epoch(**each) for each in state["history"]]
        own = state["own"][self.process.rank]
        self.loss_sum.fill_(own["loss_sum"])
        randomness.restore(own["random"], self.process.device)

    def _find(self, checkpoints: Checkpoints, is_resuming: bool) -> State | None:
        names = checkpoints.names()
        if not is_resuming:
            if names:
                raise InvalidArgument(f"{names[0]} is there already", "--resume goes on with it, or use another folder")
            return None
        state = checkpoints.load()
        if state is None:
            self.say("there is no checkpoint yet: training begins")
            return None
        _check_same(state["configuration"], self.configuration)
        if state["made_with"] != (now := _software(self.process.device)):
            other = [f"{key} {state['made_with'].get(key)}, now {now[key]}" for key in now]
            self.say(f"the checkpoint was made with {'; '.join(other)}: the last digits of results may differ")
        at = state["epoch"] * self.batches.count + state["position"]
        self.say(f"going on after step {at} of {self.steps}, in epoch {state['epoch'] + 1}")
        return state


def _software(device: torch.device) -> dict[str, Any]:
    """What results depend on in their last digits."""
    return {"torch": str(torch.__version__), "threads": torch.get_num_threads(), "device": device.type}


def _check_same(before: dict[str, Any], now: dict[str, Any]) -> None:
    """Raises InvalidArgument: a run with other settings would not be the one that was interrupted."""
    differing = [key for key in now if before.get(key) != now[key]]
    if not differing:
        return
    short = [key for key in differing if not isinstance(now[key], list)]
    what = [f"{key} {before.get(key)}, not {now[key]}" for key in short] or [f"other {key}" for key in differing]
    raise InvalidArgument(
        f"the checkpoint was made with {'; '.join(what[:4])}",
        "resume with the settings of the first call, or train in another folder",
    )
