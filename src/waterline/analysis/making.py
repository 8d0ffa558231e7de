"""`of_plan` and `of_report`: an `Analysis` before anything has run, and one of measured times."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import takewhile

from waterline.analysis.analysis import Alternative, Analysis, BlockAnalysis, Causes, LayerAnalysis, PhaseTime
from waterline.analysis.blocks import find_blocks
from waterline.analysis.fusion import Tensors
from waterline.analysis.prediction import Prediction, predictor
from waterline.errors import InvalidArgument
from waterline.machine import Rates
from waterline.planner import Plan, Step
from waterline.runtime.bound import arithmetic_ns, bound_ns, moving_ns, step_bytes
from waterline.runtime.profile import Report, Row

LEVELS = ("l2", "l3", "dram")


def of_plan(plan: Plan, machine: Rates, threads: int | None = None) -> Analysis:
    """The analysis of a network with predicted times. Nothing runs, so the machine need not be here.

    Args:
        machine: the one that the plan was made for. threads: how many of its cores; None: all.

    Raises:
        InvalidArgument: the plan was made for another machine, or there are not so many cores.
    """
    _check_machine(plan, machine)
    threads = machine.cores if threads is None else threads
    if not 1 <= threads <= machine.cores:
        raise InvalidArgument(
            f"{threads} threads on a machine of {machine.cores} cores cannot be predicted",
            f"pass a number from 1 to {machine.cores}",
        )
    return _analysis(plan, machine, threads, None)


def of_report(plan: Plan, machine: Rates, report: Report) -> Analysis:
    """The analysis of a network whose steps were measured.

    Args:
        plan: the one that ran. machine: the one that it ran on, with its measured rates.

    Raises:
        InvalidArgument: the report is of another plan or another machine.
    """
    _check_machine(plan, machine)
    expected = [(step.name, step.kind) for step in plan.steps]
    if [(row.name, row.algorithm) for row in report.rows] != expected or report.machine != machine.name:
        raise InvalidArgument(
            f"the report of {report.network!r} is not one of this plan of {plan.network!r} on {machine.name}",
            "pass the plan of the network that was profiled",
        )
    return _analysis(plan, machine, report.threads, report)


def _check_machine(plan: Plan, machine: Rates) -> None:
    if plan.machine != machine.name:
        raise InvalidArgument(
            f"the plan is for {plan.machine}, the machine is {machine.name}", "make the plan for this machine"
        )


def _analysis(plan: Plan, machine: Rates, threads: int, report: Report | None) -> Analysis:
    predict = predictor(plan, machine, threads)
    blocks = find_blocks(plan)
    owner = {i: number for number, block in enumerate(blocks) for i in block}
    rows: Sequence[Row | None] = [None] * len(plan.steps) if report is None else report.rows
    layers = tuple(
        _layer(step, owner[i], predict(step), row, machine, threads)
        for i, (step, row) in enumerate(zip(plan.steps, rows, strict=True))
    )
    tensors = Tensors(plan)
    return Analysis(
        network=plan.network,
        machine=machine.name,
        batch=plan.inputs[0][1][0] if plan.inputs and plan.inputs[0][1] else 1,
        threads=threads,
        is_measured=report is not None,
        peak_flops_per_s=machine.peak(threads),
        bytes_per_s={level: machine.bytes_per_s(level, threads) for level in LEVELS},
        time_ns=sum(layer.time_ns for layer in layers) if report is None else report.time_ns,
        layers=layers,
        blocks=tuple(
            _block(block, name, layers[block.start : block.stop], tensors, machine, threads)
            for block, name in zip(blocks, block_names(blocks, plan.steps), strict=True)
        ),
    )


def _layer(
    step: Step, block: int, prediction: Prediction, row: Row | None, machine: Rates, threads: int
) -> LayerAnalysis:
    moved = step_bytes(step)
    time_ns = prediction.time_ns if row is None else row.time_ns
    arithmetic = arithmetic_ns(prediction.flops, machine, threads)
    return LayerAnalysis(
        name=step.name,
        shape=step.spec.id if step.spec else "x".join(map(str, step.outputs[0].view.shape)),
        algorithm=step.kind,
        block=block,
        flops=step.spec.flops if step.spec else 0,
        executed_flops=prediction.flops,
        bytes=moved,
        bound_ns=bound_ns(step, machine, threads),
        time_ns=time_ns,
        predicted_ns=prediction.time_ns,
        peak_flops_per_s=machine.peak(threads),
        causes=Causes.of(time_ns, arithmetic, moving_ns(moved, machine, threads)),
        phases=tuple(
            PhaseTime(phase.name, phase.time_ns, phase.flops, phase.bytes, phase.bound_ns)
            for phase in (row.phases if row else ())
        ),
        reason=_reason(step),
        alternatives=tuple(
            Alternative(other.algorithm, other.seconds, other.measured_seconds, other.refusal)
            for other in step.candidates[1:]
        ),
    )


def _block(
    block: range, name: str, layers: Sequence[LayerAnalysis], tensors: Tensors, machine: Rates, threads: int
) -> BlockAnalysis:
    fused = tensors.fused(block, machine, threads)
    return BlockAnalysis(
        name=name,
        layers=tuple(block),
        flops=sum(layer.flops for layer in layers),
        bytes=sum(layer.bytes for layer in layers),
        time_ns=sum(layer.time_ns for layer in layers),
        bound_ns=sum(layer.bound_ns for layer in layers),
        fused_bytes=fused.bytes,
        fused_bound_ns=fused.bound_ns,
        peak_flops_per_s=machine.peak(threads),
        executed_flops=sum(layer.executed_flops for layer in layers),
        causes=Causes.sum(layer.causes for layer in layers),
    )


# ---- words ----------------------------------------------------------------------------------------------------------
def _reason(step: Step) -> str:
    """Why this algorithm computes a layer, in a sentence."""
    if not step.candidates:
        return "an operator, which is computed in one way"
    chosen, *others = step.candidates
    served = [other for other in others if other.seconds is not None]
    if not served:
        return "the only algorithm that may compute it"
    if chosen.measured_seconds is not None:
        measured = [other for other in served if other.measured_seconds is not None]
        against = f" of {len(measured) + 1}" if measured else ""
        return f"the fastest{against} that were measured: {_microseconds(chosen.measured_seconds)}"
    second = min(served, key=lambda other: other.seconds or 0.0)
    return (
        f"the least predicted time for an image: {_microseconds(chosen.seconds)}, "
        f"against {_microseconds(second.seconds)} of {second.algorithm}"
    )


def _microseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1e6 * seconds:.1f} us"


def block_names(blocks: Sequence[range], steps: Sequence[Step]) -> list[str]:
    """What the names of a block's layers have in common, with a number where several blocks have the same."""
    names = [_common_name([steps[i].name for i in block]) for block in blocks]
    several = {name for name, count in Counter(names).items() if count > 1}
    seen: Counter[str] = Counter()
    result = []
    for name in names:
        seen[name] += 1
        result.append(f"{name} #{seen[name]}" if name in several else name)
    return result


def _common_name(names: Sequence[str]) -> str:
    """`layer1.0` of `layer1.0.conv1` and `layer1.0.conv2`; the last name where they have nothing in common."""
    if len(names) == 1:
        return names[0]
    parts = [re.split(r"(?<=[./])", name)[:-1] for name in names]
    common = "".join(same[0] for same in takewhile(lambda each: len(set(each)) == 1, zip(*parts, strict=False)))
    return common.rstrip("./") or names[-1]
