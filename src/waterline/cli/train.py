"""`waterline train`: train a network, in one process or under torchrun, and compare it with its compiled self."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from waterline import train
from waterline.cli.common import add_json, check_writable, list_of, positive, print_json
from waterline.errors import Error
from waterline.train import datasets, saving
from waterline.train.architecture import describe
from waterline.train.architecture import names as model_names
from waterline.train.distributed import joined
from waterline.train.watching import terminal

MOST_DIFFERING = 1e-3  # of the images: where two scores are equal but for rounding, either may win
_SHAPE = ("depths", "widths", "stem_stride", "group_width", "expansion", "kernel", "head_width")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help=f"one of {', '.join(model_names())}")
    add_data(parser)
    where = parser.add_argument_group("where")
    where.add_argument("-o", "--output", metavar="DIR", help="checkpoints, scalars and weights (runs/MODEL-DATA)")
    where.add_argument("--resume", action="store_true", help="go on from the latest checkpoint, if there is one")
    where.add_argument(
        "--checkpoint-steps", type=positive, metavar="N", help="a checkpoint every N steps, beside one every epoch"
    )
    where.add_argument("--no-tensorboard", action="store_true", help="write no scalars for TensorBoard")
    where.add_argument("--onnx", metavar="FILE", help="write the trained network as an ONNX model too")
    where.add_argument("--device", default="auto", metavar="D", help="auto, cpu, cuda or cuda:1 (default: auto)")
    where.add_argument("--threads", type=positive, metavar="N", help="of PyTorch and Waterline on the CPU")
    where.add_argument("--workers", type=_count, default=0, metavar="N", help="processes that load images (default: 0)")
    add_json(where)
    add_recipe(parser)
    shape = parser.add_argument_group("shape of the network", "default: that of its name")
    sizes = list_of(positive)
    shape.add_argument("--depths", type=sizes, metavar="N,..", help="blocks of each stage")
    shape.add_argument("--widths", type=sizes, metavar="N,..", help="channels of each stage")
    for name in _SHAPE[2:]:
        shape.add_argument(f"--{name.replace('_', '-')}", type=positive, metavar="N")


def add_data(parser: argparse.ArgumentParser) -> None:
    data = parser.add_argument_group("data")
    data.add_argument(
        "--data",
        required=True,
        metavar="DATA",
        help=f"a folder with train/CLASS/* and val/CLASS/*, or one of {', '.join(datasets.names())}",
    )
    data.add_argument("--root", default="data", metavar="DIR", help="of torchvision's datasets (default: data)")
    data.add_argument("--download", action="store_true", help="fetch a dataset of torchvision that is not there")
    data.add_argument("--image-size", type=positive, metavar="N", help="height and width for the network")
    data.add_argument("--limit", type=positive, metavar="N", help="of the training images, drawn once; to try things")


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """An option for each number of the recipe."""
    group = parser.add_argument_group("recipe", "default: for large and for small images (at most 96x96)")
    large, small = train.Recipe(), train.Recipe.small()
    for each in dataclasses.fields(train.Recipe):
        values = f"{getattr(large, each.name)}, {getattr(small, each.name)}"
        option, text = f"--{each.name.replace('_', '-')}", f"{each.metadata['help']} ({values})"
        if "choices" in each.metadata:
            group.add_argument(option, choices=each.metadata["choices"], help=text)
        else:
            kind = _whole if isinstance(each.default, int) else _real
            group.add_argument(option, type=kind, metavar="N" if kind is _whole else "X", help=text)


def execute(arguments: argparse.Namespace) -> int:
    """Exit status 0; 1 if Waterline's accuracy is not PyTorch's."""
    _check_new(arguments.onnx)
    data = datasets.open_data(arguments.data, arguments.image_size, arguments.root, arguments.download)
    if arguments.limit:
        data = data.limited(arguments.limit)
    recipe = _recipe(arguments, data)
    shape = {name: value for name in _SHAPE if (value := getattr(arguments, name)) is not None}
    shape.update({name: tuple(value) for name, value in shape.items() if isinstance(value, list)})
    architecture = train.architecture(arguments.model, **shape)
    architecture.check_image_size(data.image_size)
    model = architecture.build(len(data.classes), recipe.drop_path, recipe.seed)
    folder = Path(arguments.output or f"runs/{arguments.model}-{data.name.replace(':', '-')}")
    watchers = [terminal()]
    if not arguments.no_tensorboard:
        watchers.append(train.TensorBoard(folder / "tensorboard"))
    with joined(arguments.device) as process:
        if process.is_first:
            watchers[0].say(_introduction(architecture.name, model, data, recipe, process.count, process.device))
        result = train.fit(
            model,
            data,
            recipe,
            folder=folder,
            is_resuming=arguments.resume,
            checkpoint_steps=arguments.checkpoint_steps,
            watchers=watchers,
            device=arguments.device,
            workers=arguments.workers,
            num_threads=arguments.threads,
        )
    if not process.is_first:
        return 0
    saving.save_model(folder / "model.pt", result.trained, architecture, data)
    if arguments.onnx:
        saving.write_onnx(arguments.onnx, result.trained, data.image_size)
    verification = train.verify(result.trained, data, arguments.threads)
    if arguments.json:
        print_json(_facts(architecture, data, result, verification, folder))
    else:
        print(_conclusion(verification, folder, arguments.onnx), flush=True)
    if verification.differing > max(1, MOST_DIFFERING * verification.images):
        raise Error(
            f"Waterline finds another class than PyTorch for {verification.differing} of {verification.images} images",
            "please report it",
        )
    return 0


def _recipe(arguments: argparse.Namespace, data: train.Data) -> train.Recipe:
    named = [each.name for each in dataclasses.fields(train.Recipe)]
    given = {name: value for name in named if (value := getattr(arguments, name)) is not None}
    if data.is_small:
        return train.Recipe.small(**given)
    return train.Recipe(**given)


def _introduction(name: str, model: Any, data: train.Data, recipe: train.Recipe, processes: int, device: Any) -> str:
    several = f", {processes} processes" if processes > 1 else ""
    return (
        f"{name}, {describe(model)['parameters'] / 1e6:.2f} million parameters; {data.name}: {len(data.train)} images "
        f"for training and {len(data.val)} for validation, {len(data.classes)} classes, "
        f"{data.image_size}x{data.image_size}; {recipe.epochs} epochs, batch {recipe.batch_size}, {device}{several}"
    )


def _conclusion(found: train.Verification, folder: Path, onnx: str | None) -> str:
    same = f"the classes of {found.differing} images differ" if found.differing else "the same class for every image"
    lines = [
        f"accuracy in PyTorch:   {100 * found.pytorch_accuracy:.2f} % ({found.pytorch_right} of {found.images})",
        f"accuracy in Waterline: {100 * found.waterline_accuracy:.2f} % ({found.waterline_right} of {found.images}), "
        f"{same}; scores differ by at most {found.largest_difference:.1e} of {found.largest_score:.1f}",
        f"weights: {folder / 'model.pt'}",
    ]
    return "\n".join([*lines, *([f"ONNX model: {onnx}"] if onnx else [])])


def _facts(
    architecture: train.Architecture, data: train.Data, result: train.Result, found: train.Verification, folder: Path
) -> dict[str, Any]:
    return {
        "model": architecture.name,
        "architecture": architecture.to_dict(),
        "parameters": describe(result.model)["parameters"],
        "data": data.name,
        "classes": len(data.classes),
        "image_size": data.image_size,
        "recipe": result.recipe.to_dict(),
        "history": [dataclasses.asdict(each) for each in result.history],
        "images": found.images,
        "pytorch_accuracy": found.pytorch_accuracy,
        "waterline_accuracy": found.waterline_accuracy,
        "differing": found.differing,
        "largest_difference": found.largest_difference,
        "weights": str(folder / "model.pt"),
    }


def _check_new(path: str | None) -> None:
    """Find out before training, and leave no empty file that looks like a model.

    Raises:
        OSError: the file cannot be written.
    """
    if path is not None and not Path(path).exists():
        check_writable(path)
        Path(path).unlink()
    else:
        check_writable(path)


def _count(text: str) -> int:
    return 0 if text == "0" else positive(text)


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from error


def _real(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from error
