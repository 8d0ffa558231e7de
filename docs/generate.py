"""Writes the pages of docs/ that follow from the sources: `python docs/generate.py`. A test keeps them up to date."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from waterline.frontends.onnx import (
    convolution,
    elementwise,
    linear,
    movement,
    normalisation,
    operators,
    pooling,
    reduction,
    resize,
    shapes,
)
from waterline.report import results

FOLDER = Path(__file__).parent
RECORDS, LAYERS = FOLDER.parent / "benchmarks" / "records", FOLDER.parent / "benchmarks" / "layers"
README, GAPS, CONVFIRST = "../README.md", "efficiency-gaps.md", "convfirst.md"

# Families of operators in the order of the page: heading -> the module whose table they are in.
FAMILIES: dict[str, ModuleType] = {
    "Convolution": convolution,
    "Linear layers": linear,
    "Activations and arithmetic": elementwise,
    "Normalisation": normalisation,
    "Pooling": pooling,
    "Reduction": reduction,
    "Moving data": movement,
    "Resizing": resize,
    "Shapes and constants": shapes,
}

# What an operator does not do, or does in a special case only. Operators that are not listed have no limits.
LIMITS = {
    "Conv": "1-D and 2-D; any stride, dilation, groups, asymmetric pads and `auto_pad`. The weights are constants.",
    "ConvTranspose": "1-D and 2-D, with `output_padding` and `output_shape`. The weights are constants.",
    "BatchNormalization": "recorded statistics, not training mode. The parameters are constants.",
    "Dropout": "does nothing, as in inference; training mode is refused.",
    "MaxPool": "1-D and 2-D, with `ceil_mode` and dilation; the output `Indices` is not computed.",
    "AveragePool": "1-D and 2-D, with `ceil_mode` and `count_include_pad`.",
    "LpPool": "1-D and 2-D.",
    "Gather": "indices that are known and make up a few slices; anything on constants.",
    "Pad": "`constant`, `reflect` and `edge`; negative pads crop. `wrap` is refused.",
    "Resize": "nearest and linear of one or two spatial axes, cubic of two; `antialias` and `exclude_outside` (cubic), "
    "`tf_crop_and_resize` and the policy `not_smaller` are refused.",
    "Upsample": "as Resize.",
    "Cast": "from any type to any on constants; of tensors to their own type.",
    "CastLike": "as Cast.",
    "Where": "with a known condition that is the same everywhere; anything on constants.",
    "If": "with a known condition.",
}
ON_SHAPES = {"Constant", "Shape", "Size"}  # of `shapes`, but not limited to constants

INTRODUCTION = """\
# Supported operators

<!-- Written by docs/generate.py: edit that file instead. -->

Tensors are float32. Integers and booleans are followed through shape arithmetic as long as they are known when the
model is compiled, which covers what exporters write around `Reshape`, `Slice` and `Resize`; parameters such as axes,
sizes and pads must be known then, too. A model that uses anything else is refused with `UnsupportedOperator`, whose
one message names every operator and node in question.

## ONNX

Opsets 6 to the newest that the installed `onnx` knows."""


def operators_page() -> str:
    """docs/operators.md."""
    lines = [INTRODUCTION]
    listed: set[str] = set()
    for heading, module in FAMILIES.items():
        names = sorted([*module.CONVERTERS, *(["If"] if module is shapes else [])])
        limits = {name: LIMITS.get(name) or _default_limit(name, module) for name in names}
        groups: dict[str, list[str]] = {}
        for name in names:
            groups.setdefault(limits[name], []).append(f"`{name}`")
        lines += ["", f"### {heading}", ""]
        lines += [
            f"* {', '.join(group)}{f': {limit}' if limit else '.'}"
            for limit, group in sorted(groups.items(), key=lambda item: item[0] != "")
        ]
        listed |= set(names)
    disputed = set(operators()) ^ listed
    if disputed:
        raise ValueError(f"the page and the front end disagree about {sorted(disputed)}")
    return "\n".join([*lines, *_torch_lines()]) + "\n"


def _default_limit(name: str, module: ModuleType) -> str:
    return "on constants only." if module is shapes and name not in ON_SHAPES else ""


def _torch_lines() -> list[str]:
    from waterline.frontends.torch import operators as aten

    lines = [
        "",
        "## PyTorch",
        "",
        "ATen operators that `torch.export` may leave in a program. In-place variants (`relu_`) and those that copy",
        "(`view_copy`) are read as the plain ones; training mode is refused. Under `torch.compile` what is not listed",
        "runs in PyTorch.",
    ]
    families: dict[str, list[str]] = {}
    for name, converter in aten.CONVERTERS.items():
        families.setdefault(_family(converter), []).append(name.removesuffix(".default"))
    for family, names in families.items():
        lines += ["", f"**{family.capitalize()}**: " + ", ".join(f"`{name}`" for name in sorted(set(names))) + "."]
    return lines


def _family(converter: Callable) -> str:
    module = inspect.getmodule(inspect.unwrap(getattr(converter, "func", converter)))
    assert module is not None
    return module.__name__.rpartition(".")[2]


# ---- results ------------------------------------------------------------------------------------------------------
RESULTS = """\
# Results

<!-- Written by docs/generate.py from the records; the texts are in docs/results-texts.md. -->
"""
BEGIN, END = "<!-- Written by docs/generate.py from the records: -->", "<!-- End of what it writes. -->"


def results_page() -> str:
    """docs/results.md."""
    texts = results.read_texts(FOLDER / "results-texts.md")
    return RESULTS + "\n" + results.page(results.read(RECORDS), LAYERS, texts, results.read_gpus(RECORDS))


def readme() -> str:
    """README.md, whose table of networks is written and the rest kept."""
    return filled(README, results.networks_block(results.read(RECORDS)))


def gaps_page() -> str:
    """docs/efficiency-gaps.md, whose tables are written and the rest kept."""
    return filled(GAPS, results.gaps_block(results.read(RECORDS)))


def convfirst_page() -> str:
    """docs/convfirst.md, whose comparison with ConvNeXt is written and the rest kept."""
    return filled(CONVFIRST, results.training_block(results.read(RECORDS)))


def filled(page: str, block: str) -> str:
    """A page with `block` between its marks."""
    text = (FOLDER / page).read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} has no place for what is written, between {BEGIN!r} and {END!r}")
    return f"{before}{BEGIN}\n\n{block}\n\n{END}{after}"


# page, relative to this folder -> its text
PAGES: dict[str, Callable[[], str]] = {
    "operators.md": operators_page,
    "results.md": results_page,
    GAPS: gaps_page,
    CONVFIRST: convfirst_page,
    README: readme,
}


if __name__ == "__main__":
    drawn = results.draw_all(results.read(RECORDS), FOLDER / "figures")
    print(f"wrote {len(drawn)} figures into docs/figures")
    for page, write in PAGES.items():
        (FOLDER / page).write_text(write(), encoding="utf-8")
        print(f"wrote {(FOLDER / page).resolve().relative_to(FOLDER.resolve().parent)}")
