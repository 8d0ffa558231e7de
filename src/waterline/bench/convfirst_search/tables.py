"""The search's tables as Markdown, and the page that they are written into."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from waterline.bench.convfirst_search.price import BATCHES, Priced
from waterline.bench.convfirst_search.space import grouped_share
from waterline.bench.timing import geometric_mean
from waterline.errors import InvalidArgument
from waterline.models import ConvFirstConfig

BEGIN = "<!-- Written by python -m waterline.bench.convfirst_search: -->"
END = "<!-- End of what it writes. -->"


def family_table(family: Sequence[Priced]) -> str:
    """What the members are, and another network beside them."""
    rows = [["network", "blocks", "channels", "group", "expansion", "kernel", "stem", "GMAC", "parameters"]]
    for each in family:
        rows.append(
            [f"`{each.name}`", *_shape(each.config), f"{each.macs / 1e9:.2f}", f"{each.parameters / 1e6:.1f} M"]
        )
    return _markdown(rows)


def candidates_table(found: Sequence[Priced]) -> str:
    """The networks that were planned, in the order given. Percentages of the peak, means over the machines."""
    server = found[0].figures[0].machine
    rows = [["blocks", "channels", "kind", "GMAC", "grouped", "parameters", "attainable"]]
    rows[0] += [f"predicted {batch}" for batch in BATCHES]
    rows[0] += [f"server {batch}" for batch in BATCHES]
    for each in found:
        assert each.config is not None
        c = each.config
        row = [
            _joined(c.depths),
            _joined(c.widths),
            f"{c.group_width}/{c.expansion}/{c.kernel}/{c.stem_stride}",
            f"{each.macs / 1e9:.2f}",
            _percent(grouped_share(c)),
            f"{each.parameters / 1e6:.1f} M",
            _percent(geometric_mean([f.attainable for f in each.figures if f.attainable is not None])),
            *(_percent(each.mean_predicted(batch)) for batch in BATCHES),
            *(_percent(each.figure(server, batch).predicted) for batch in BATCHES),
        ]
        rows.append([f"**{cell}**" for cell in row] if each.name else row)
    return _markdown(rows)


def machines_table(family: Sequence[Priced], reference: Priced) -> str:
    """Each machine: efficiency and latency of every member, and how many times as long the reference takes."""
    networks = (*family, reference)
    rows = [["one core of a", "batch"]]
    rows[0] += [heading for each in networks for heading in (f"{_short(each.name)} %", "ms")]
    rows[0].append(f"{_short(reference.name)} / {_short(family[0].name)}")
    for figure in family[0].figures:
        figures = [each.figure(figure.machine, figure.batch) for each in networks]
        cells = [cell for f in figures for cell in (f"{100 * f.predicted:.1f}", f"{f.latency_ms:.1f}")]
        ratio = figures[-1].latency_ms / figures[0].latency_ms
        rows.append([figure.machine, str(figure.batch), *cells, f"{ratio:.1f}"])
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
    kernel, stem = f"{config.kernel}x{config.kernel}", f"{config.stem_kernel}x{config.stem_kernel}"
    stem += f", stride {config.stem_stride}"
    return [
        _joined(config.depths),
        _joined(config.widths),
        str(config.group_width),
        str(config.expansion),
        kernel,
        stem,
    ]


def _joined(sizes: Sequence[int]) -> str:
    return "-".join(map(str, sizes))


def _short(name: str) -> str:
    """`tiny` of `convfirst_tiny`; of another network the name."""
    return name.removeprefix("convfirst_")


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    heading, *body = ["| " + " | ".join(row) + " |" for row in rows]
    rule = "|" + "|".join([":--", *["--:"] * (len(rows[0]) - 1)]) + "|"
    return "\n".join([heading, rule, *body])
