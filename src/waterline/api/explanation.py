"""A plan in words: every layer, its algorithm, and each other one with its times or the reason it was refused."""

from __future__ import annotations

from waterline.algorithms.block_fusion.model import BlockConfig
from waterline.graph.block import BlockSpec
from waterline.planner import Plan, Step
from waterline.planner.plan import Candidate
from waterline.spec import ConvSpec


def explain(plan: Plan) -> str:
    lines = [
        f"{plan.network} on {plan.machine}: {len(plan.steps)} steps, {plan.flops / 1e9:.3f} GFLOP, "
        f"{plan.arena_bytes / 2**20:.1f} MiB between layers"
    ]
    for step in plan.steps:
        if step.spec is None:
            shape = "x".join(map(str, step.outputs[0].view.shape))
            lines.append(f"{step.name}: {step.kind} -> {shape}")
            continue
        chosen, *others = step.candidates
        if isinstance(step.spec, BlockSpec):
            lines += _block(step, chosen)
        else:
            lines.append(f"{step.name}: {step.algorithm} for {step.spec.id}, epilogue {step.spec.epilogue}")
            lines.append(f"    {chosen.algorithm}: chosen, {_times(chosen)}, {step.config}")
        lines += [f"    {other.algorithm}: {_figures(other)}" for other in others]
    return "\n".join(lines)


def _block(step: Step, chosen: Candidate) -> list[str]:
    """The layers of a block, and how they are computed together."""
    assert isinstance(step.spec, BlockSpec)
    how = f"strips of {step.config.strip_rows} rows" if isinstance(step.config, BlockConfig) else str(step.config)
    lines = [f"{step.name}: {step.algorithm} for {step.spec.id}"]
    inside = f"{step.spec.inner_bytes} bytes stay inside"
    lines.append(f"    {chosen.algorithm}: chosen, {_times(chosen)}, {how}, {inside}")
    for part in step.parts:
        how = part.op.name
        if isinstance(part.spec, ConvSpec):
            inner = f"{part.algorithm}, " if part.algorithm else ""
            config = f", {part.config}" if part.config is not None else ""
            how = f"{inner}epilogue {part.spec.epilogue}{config}"
        lines.append(f"    {part.name}: {how}")
    return lines


def _figures(candidate: Candidate) -> str:
    if candidate.seconds is None:
        return f"refused: {candidate.refusal}" + (f" ({candidate.config})" if candidate.config is not None else "")
    return _times(candidate) + (f", {candidate.config}" if candidate.measured_seconds is not None else "")


def _times(candidate: Candidate) -> str:
    """Predicted for one image on all cores; measured for one image as the layer was tuned."""
    predicted = f"predicted {_microseconds(candidate.seconds)}"
    if candidate.measured_seconds is None:
        return predicted
    return f"{predicted}, measured {_microseconds(candidate.measured_seconds)}"


def _microseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e6:.1f} us"
