"""Tables of an `Analysis`: the layers that lose most time, and the blocks with what fusing them would change."""

from __future__ import annotations

import math

from waterline.analysis import Analysis, BlockAnalysis, LayerAnalysis
from waterline.report.tables import Table, percent, short_shape

LAYER_COLUMNS = (
    "<layer",
    "<shape",
    "<algorithm",
    "time us",
    "lost us",
    "FLOP/B",
    "attain %",
    "CE %",
    "EE %",
    "a/m/o %",
)
LEGEND = (
    "lost: time above the bound. attain: the efficiency at the bound. CE, EE: computational and effective efficiency. "
    "a/m/o: the time's parts, arithmetic, memory beyond it, and overhead."
)
BLOCK_COLUMNS = ("<block", "layers", "time us", "share", "MB", "fused", "less", "bound us", "fused", "gain")


def layer_table(analysis: Analysis, count: int | None = None) -> Table:
    """The `count` layers (None: all) that lose most time against their bound, the worst first."""
    worst = sorted(analysis.layers, key=lambda layer: -layer.lost_ns)
    shown = worst[:count]
    what = f"{len(shown)} of {len(worst)} layers" if len(shown) < len(worst) else f"{len(worst)} layers"
    table = Table(f"{what}, by the time above the bound", LAYER_COLUMNS)
    table.rows += [_layer_row(layer) for layer in shown]
    lost = sum(layer.lost_ns for layer in worst)
    here = sum(layer.lost_ns for layer in shown)
    table.notes.append(
        f"Above the bounds: {lost / 1e3:.1f} us of {analysis.time_ns / 1e3:.1f} us"
        + (f", {percent(_ratio(here, lost))} of it in these layers." if len(shown) < len(worst) else ".")
    )
    table.notes.append(LEGEND)
    return table


def _layer_row(layer: LayerAnalysis) -> tuple[str, ...]:
    causes = layer.causes
    parts = (causes.arithmetic_ns, causes.memory_ns, causes.overhead_ns)
    efficiencies = (layer.attainable_efficiency, layer.computational_efficiency, layer.effective_efficiency)
    return (
        layer.name,
        short_shape(layer.shape),
        layer.algorithm,
        f"{layer.time_ns / 1e3:.1f}",
        f"{layer.lost_ns / 1e3:.1f}",
        f"{layer.operational_intensity:.1f}" if layer.flops else "",
        *(f"{100 * efficiency:.1f}" if layer.flops else "" for efficiency in efficiencies),
        "/".join(f"{100 * part / causes.time_ns:.0f}" for part in parts) if causes.time_ns else "",
    )


def block_table(analysis: Analysis) -> Table:
    """Blocks of more than one layer in their order, with traffic and bound as they are and as one kernel."""
    blocks = [block for block in analysis.blocks if len(block.layers) > 1]
    table = Table("Blocks that could be one kernel", BLOCK_COLUMNS)
    table.rows += [_block_row(block, analysis) for block in blocks]
    if not blocks:
        table.notes.append("No layers of this network could be one kernel by the rules of docs/analysis.md.")
        return table
    before, after = sum(block.bytes for block in blocks), sum(block.fused_bytes for block in blocks)
    bound, fused = sum(block.bound_ns for block in blocks), sum(block.fused_bound_ns for block in blocks)
    table.totals.append(
        (
            "blocks together",
            str(sum(len(block.layers) for block in blocks)),
            *_figures(sum(block.time_ns for block in blocks), before, after, bound, fused, analysis.time_ns),
        )
    )
    return table


def _block_row(block: BlockAnalysis, analysis: Analysis) -> tuple[str, ...]:
    figures = _figures(
        block.time_ns, block.bytes, block.fused_bytes, block.bound_ns, block.fused_bound_ns, analysis.time_ns
    )
    return (block.name, str(len(block.layers)), *figures)


def _figures(
    time_ns: float, before_bytes: int, after_bytes: int, bound_ns: float, fused_ns: float, total_ns: float
) -> tuple[str, ...]:
    return (
        f"{time_ns / 1e3:.1f}",
        percent(_ratio(time_ns, total_ns)),
        f"{before_bytes / 1e6:.3f}",
        f"{after_bytes / 1e6:.3f}",
        f"{_ratio(before_bytes, after_bytes):.1f}x",
        f"{bound_ns / 1e3:.1f}",
        f"{fused_ns / 1e3:.1f}",
        f"{_ratio(bound_ns, fused_ns):.2f}x",
    )


def _ratio(a: float, b: float) -> float:
    return a / b if b else math.nan
