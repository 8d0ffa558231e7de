"""The search's tables as Markdown, and the page that they are written into."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from waterline.bench.convfirst_search.price import BATCHES, Figure, Priced
from waterline.errors import InvalidArgument
from waterline.machine import CATALOGUE
from waterline.models import ConvFirstConfig

BEGIN = "<!-- Written by python -m waterline.bench.convfirst_search: -->"
END = "<!-- End of what it writes. -->"


def family_table(family: Sequence[Priced]) -> str:
    """What the members are; others beside them."""
    rows = [["network", "blocks", "channels", "group", "expansion", "kernel", "stem", "GMAC", "parameters"]]
    for each in family:
        rows.append(
            [f"`{each.name}`", *_shape(each.config), f"{each.macs / 1e9:.2f}", f"{each.parameters / 1e6:.1f} M"]
        )
    return _markdown(rows)


def candidates_table(found: Sequence[Priced]) -> str:
    """The networks that were planned, in the order given. Percentages of the peak, means over the machines."""
    rows = [
        ["blocks", "channels", "group", "expansion", "kernel", "stem", "GMAC", "parameters"]
        + [f"batch {batch}: attainable" if batch == BATCHES[0] else f"batch {batch}" for batch in BATCHES]
        + [f"predicted, batch {batch}" for batch in BATCHES]
        + [f"AVX-512, batch {batch}" for batch in BATCHES]
        + ["chosen"]
    ]
    rows[0][8:10] = [f"attainable, batch {batch}" for batch in BATCHES]
    server = CATALOGUE[0].name
    for each in found:
        limits = [_mean([_limit(f) for f in each.figures if f.batch == batch]) for batch in BATCHES]
        rows.append(
            [*_shape(each.config), f"{each.macs / 1e9:.2f}", f"{each.parameters / 1e6:.1f} M"]
            + [_percent(limit) for limit in limits]
            + [_percent(each.mean_predicted(batch)) for batch in BATCHES]
            + [_percent(each.figure(server, batch).predicted) for batch in BATCHES]
            + [f"`{each.name}`" if each.name else ""]
        )
    return _markdown(rows)


def machines_table(family: Sequence[Priced], reference: Priced) -> str:
    """Each machine: efficiency and latency of every member, and how many times as long the reference takes."""
    rows = [["one core of a", "batch"]]
    rows[0] += [f"{each.name.removeprefix('convfirst_')}: {what}" for each in family for what in ("efficiency", "ms")]
    rows[0] += [f"{reference.name}: efficiency", "ms", f"times {family[0].name.removeprefix('convfirst_')}'s"]
    for machine in CATALOGUE:
        for batch in BATCHES:
            figures = [each.figure(machine.name, batch) for each in (*family, reference)]
            cells = [cell for f in figures for cell in (_percent(f.predicted), f"{f.latency_ms:.1f}")]
            ratio = figures[-1].latency_ms / figures[0].latency_ms
            rows.append([machine.name, str(batch), *cells, f"{ratio:.1f}"])
    return _markdown(rows)


def check_page(path: Path) -> None:
    """Raises InvalidArgument: the page has no place for tables. OSError: it cannot be read."""
    fill(path.read_text(encoding="utf-8"), "", str(path))


def fill(text: str, block: str, name: str) -> str:
    """A page's text with `block` between its marks.

    Raises:
        InvalidArgument: it has no marks; `name` is said.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise InvalidArgument(f"{name} has no place for the tables", f"write {BEGIN!r} and {END!r} into it")
    return f"{before}{BEGIN}\n\n{block}\n\n{END}{after}"


def _shape(config: ConvFirstConfig | None) -> list[str]:
    if config is None:
        return ["-"] * 6
    blocks, channels = ("-".join(map(str, sizes)) for sizes in (config.depths, config.widths))
    kernel = f"{config.kernel}x{config.kernel}"
    stem = f"{config.stem_kernel}x{config.stem_kernel}, stride {config.stem_stride}"
    return [blocks, channels, str(config.group_width), str(config.expansion), kernel, stem]


def _limit(figure: Figure) -> float:
    assert figure.attainable is not None
    return figure.attainable


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    heading, *body = ["| " + " | ".join(row) + " |" for row in rows]
    rule = "|" + "|".join([":--", *["--:"] * (len(rows[0]) - 1)]) + "|"
    return "\n".join([heading, rule, *body])
