"""Tables: for a terminal (with rich, where it is installed), as plain text and as Markdown."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO

from waterline.bench.comparison import fastest_peer
from waterline.bench.records import Record
from waterline.bench.timing import geometric_mean
from waterline.runtime.profile import describe
from waterline.spec import ConvSpec


@dataclass
class Table:
    """Columns, rows and totals of text. Columns whose name starts with `<` are aligned left, all others right."""

    title: str
    columns: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    totals: list[Sequence[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def headings(self) -> list[str]:
        return [column.removeprefix("<") for column in self.columns]

    @property
    def is_left(self) -> list[bool]:
        return [column.startswith("<") for column in self.columns]

    def to_text(self) -> str:
        """Aligned with spaces."""
        everything = [self.headings, *self.rows, *self.totals]
        widths = [max(len(row[i]) for row in everything) for i in range(len(self.columns))]
        rule = "  ".join("-" * width for width in widths)
        lines = [self.title] if self.title else []
        lines += [self._aligned(self.headings, widths), rule]
        lines += [self._aligned(row, widths) for row in self.rows]
        if self.totals:
            lines += [rule, *(self._aligned(row, widths) for row in self.totals)]
        return "\n".join([*lines, *self.notes])

    def to_markdown(self) -> str:
        lines = [f"**{self.title}**", ""] if self.title else []
        lines.append(_markdown_row(self.headings))
        lines.append(_markdown_row([":---" if left else "---:" for left in self.is_left]))
        lines += [_markdown_row(row) for row in self.rows]
        lines += [_markdown_row([f"**{cell}**" if cell else "" for cell in row]) for row in self.totals]
        return "\n".join([*lines, *(f"\n{note}" for note in self.notes)])

    def print(self, stream: TextIO) -> None:
        """With rich on a terminal where it is installed, else plain."""
        if stream.isatty() and importlib.util.find_spec("rich"):
            _print_rich(self, stream)
        else:
            stream.write(self.to_text() + "\n")

    def _aligned(self, row: Sequence[str], widths: Sequence[int]) -> str:
        cells = [
            cell.ljust(width) if left else cell.rjust(width)
            for cell, width, left in zip(row, widths, self.is_left, strict=True)
        ]
        return "  ".join(cells).rstrip()


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _print_rich(table: Table, stream: TextIO) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    shown = RichTable(title=table.title or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading, left in zip(table.headings, table.is_left, strict=True):
        shown.add_column(heading, justify="left" if left else "right", no_wrap=not left, overflow="fold")
    for row in table.rows:
        shown.add_row(*(Text(cell) for cell in row))
    for position, row in enumerate(table.totals):
        if position == 0:
            shown.add_section()
        shown.add_row(*(Text(cell, style="bold") for cell in row))
    console = Console(file=stream)
    console.print(shown)
    for note in table.notes:
        console.print(Text(note))


# ---- the tables of the commands -------------------------------------------------------------------------------------
def per_layer(report: Mapping[str, Any], title: str = "", *, phases: bool = True) -> Table:
    """Of a `Report`'s dictionary: where the time of a network goes, and how far each layer is from its bound.

    With `phases`, those of a layer follow it, indented: GFLOP/s executed, and the bound of the phase.
    """
    columns = ("<layer", "<shape", "<algorithm", "time us", "share", "GFLOP/s", "of peak", "bound us", "of bound")
    table = Table(title, columns)
    totals = report["totals"]
    for row in report["rows"]:
        shape = short_shape(row["shape"])
        table.rows.append((row["name"], shape, row["algorithm"], *_layer_figures(row, totals["time_ns"])))
        for phase in row["phases"] if phases else ():
            values = {**phase, "effective_flops_per_s": phase["flops_per_s"]}
            values["computational_efficiency"] = phase["flops_per_s"] / report["peak_flops_per_s"]
            share = f"  {percent(phase['share'])} of it"
            table.rows.append((f"  {phase['name']}", share, "", *_layer_figures(values, totals["time_ns"])))
    table.totals.append(("network", "", "", *_layer_figures(totals, totals["time_ns"])))
    threads = report["threads"]
    table.notes.append(
        f"{threads} thread{'s' if threads > 1 else ''}, measured peak {report['peak_flops_per_s'] / 1e9:.0f} GFLOP/s, "
        f"memory {report['bytes_per_s'] / 1e9:.0f} GB/s. Waterline (every layer at its bound): "
        f"{percent(totals['waterline'])} of peak."
    )
    table.notes += [describe(group) for group in report["phase_sums"]] if phases else []
    return table


def short_shape(shape: str) -> str:
    """A layer's id as people write it: input, filter / stride, output channels, groups. Other shapes as they are."""
    if not shape.startswith("n"):
        return shape
    spec = ConvSpec.parse(shape)
    stride = "" if spec.stride == (1, 1) else f"/{spec.stride[0]}"
    if spec.stride[0] != spec.stride[1]:
        stride += f"x{spec.stride[1]}"
    groups = "" if spec.groups == 1 else f" g{spec.groups}"
    dilation = "" if spec.dilation == (1, 1) else f" dl{spec.dilation[0]}x{spec.dilation[1]}"
    batch = "" if spec.n == 1 else f"{spec.n}x"
    return f"{batch}{spec.c}x{spec.h}x{spec.w} {spec.r}x{spec.s}{stride} -> {spec.k}{groups}{dilation}"


def _layer_figures(row: Mapping[str, Any], total_ns: float) -> tuple[str, ...]:
    time_ns, bound_ns = row["time_ns"], row["bound_ns"]
    return (
        f"{time_ns / 1e3:.1f}",
        percent(time_ns / total_ns if total_ns else math.nan),
        f"{row['effective_flops_per_s'] / 1e9:.1f}" if row["flops"] else "",
        percent(row["computational_efficiency"]) if row["flops"] else "",
        f"{bound_ns / 1e3:.1f}",
        percent(bound_ns / time_ns if time_ns else math.nan),
    )


def comparison(records: Sequence[Record], title: str = "") -> Table:
    """One line a measurement. `ratio` is the time divided by Waterline's in the same rounds: above 1 it is slower."""
    columns = ["<model", "batch", "threads", "<engine", "median ms", "p10", "p90", "of peak", "ratio", "p10-p90"]
    has_kernels = any("kernel_ms" in record for record in records)
    table = Table(title, columns + (["kernel us", "of peak"] if has_kernels else []))
    previous = None
    for record in records:
        key = (record["model"], record["batch"], record["threads"])
        shown = ("", "", "") if key == previous else (key[0], str(key[1]), str(key[2]))
        previous = key
        engine = record["engine"]
        if record.get("algorithm"):
            engine += f" ({record['algorithm']})"
        if record.get("tuned"):
            engine += ", tuned"
        ratio = record["ratio"]
        kernel = ("", "") if has_kernels else ()
        if "kernel_ms" in record:
            kernel = (f"{1e3 * record['kernel_ms']:.1f}", percent(record["kernel_efficiency"]))
        table.rows.append(
            (
                *shown,
                engine,
                milliseconds(record["median_ms"]),
                milliseconds(record["p10_ms"]),
                milliseconds(record["p90_ms"]),
                percent(record["computational_efficiency"]),
                f"{ratio['median']:.2f}",
                f"{ratio['p10']:.2f}-{ratio['p90']:.2f}",
                *kernel,
            )
        )
    table.notes += _summary(records)
    return table


def _summary(records: Sequence[Record]) -> list[str]:
    """Geometric means of the ratios, for each number of threads, where there are several networks and peers."""
    notes = []
    for threads in dict.fromkeys(record["threads"] for record in records):
        groups: dict[tuple, list[Record]] = {}
        for record in records:
            if record["threads"] == threads:
                groups.setdefault((record["model"], record["batch"]), []).append(record)
        if len(groups) < 2:
            continue
        ratios: dict[str, list[float]] = {}
        for group in groups.values():
            for record in group:
                if record["engine"] != "waterline":
                    ratios.setdefault(record["engine"], []).append(record["ratio"]["median"])
            fastest = fastest_peer(group)
            if fastest is not None:
                ratios.setdefault("the fastest peer", []).append(fastest["ratio"]["median"])
        for engine, values in ratios.items():
            if len(values) == len(groups):
                notes.append(
                    f"{threads} thread{'s' if threads > 1 else ''}, {len(values)} models, {engine} / waterline: "
                    f"geometric mean {geometric_mean(values):.3f}, least {min(values):.3f}"
                )
    return notes


def milliseconds(value: float) -> str:
    """Three significant digits at least."""
    digits = max(0, 2 - math.floor(math.log10(value))) if value > 0 else 3
    return f"{value:.{min(digits, 4)}f}"


def percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.1f} %"
