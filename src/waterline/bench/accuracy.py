"""How far results are from float64, ours and PyTorch's: against the bound of the algorithms, and against each other.

`python -m waterline.bench.accuracy resnet50 mobilenet_v2`

The truth is the network as its file says it, before any pass, in float64: what folding and fusing lose counts as our
error. PyTorch computes the same graph in float32. Errors are absolute, over all elements of an output and all seeds.
"""

from __future__ import annotations

import argparse
import math
import sys
from typing import Any

import numpy as np

from waterline.api import environment
from waterline.bench import ours, peers, records
from waterline.bench.command import FAILED, entry, keep, positive, print_columns, smallest_batch
from waterline.bench.engine import Task
from waterline.bench.records import Record
from waterline.bench.truth import check_network
from waterline.bench.workload import Workload
from waterline.reference import Comparison, run

SEEDS = 3
MOST_RATIO = 4.0  # of our error to PyTorch's, both against float64


def measure(workload: Workload, seeds: int, threads: int) -> tuple[list[Record], dict[str, str]]:
    """A record for each output, and the engines' versions.

    Raises:
        InvalidArgument: PyTorch is not installed. UnsupportedOperator: it does not run the graph.
    """
    batch = smallest_batch(workload)
    graph = workload.graph(batch)
    net = ours.compiled(Task(workload.model, {}, threads))
    differences: dict[str, dict[str, list[np.ndarray]]] = {name: {} for name in graph.outputs}
    checks: dict[str, list[Comparison]] = {name: [] for name in graph.outputs}
    largest = dict.fromkeys(graph.outputs, 0.0)
    versions: dict[str, str] = {}
    for seed in range(seeds):
        inputs = workload.inputs(batch, seed)
        engines = [ours.engine_of(net, inputs), peers.prepare("torch", Task(workload.model, inputs, threads))]
        versions = {engine.name: engine.version for engine in engines}
        results = {engine.name: [np.asarray(value) for value in engine.run()] for engine in engines}
        truth = run(graph, inputs)
        made = net.plan_for(*inputs.values())
        for name, check in check_network(workload, inputs, results["waterline"], made).items():
            checks[name].append(check)
            largest[name] = max(largest[name], largest_finite(truth[name]))
        for engine, values in results.items():
            for name, value in zip(graph.outputs, values, strict=True):
                with np.errstate(invalid="ignore"):  # infinity where infinity belongs
                    differences[name].setdefault(engine, []).append(value - truth[name])
    labels = {
        "protocol": "accuracy",
        "model": workload.name,
        "engine": "waterline",
        "dtype": "float32",
        "batch": batch,
        "threads": threads,
        "inputs": {name: list(shape) for name, shape in workload.shapes_for(batch).items()},
        "seeds": seeds,
        "algorithms": sorted({step.algorithm for step in net.plan.steps if step.spec is not None}),
    }
    found = [
        {**labels, "output": name, "largest": largest[name], **summarise(differences[name], checks[name])}
        for name in graph.outputs
    ]
    return found, versions


def summarise(differences: dict[str, list[np.ndarray]], checks: list[Comparison]) -> Record:
    """What a record says about one output.

    Args:
        differences: "waterline" and "torch" -> the differences from the truth, an array a seed.
        checks: of ours against the bound, one a seed.
    """
    max_error, rms_error = errors(differences["waterline"])
    torch_max_error, torch_rms_error = errors(differences["torch"])
    ratios = {"max": _ratio(max_error, torch_max_error), "rms": _ratio(rms_error, torch_rms_error)}
    share = max(check.ratio for check in checks)
    is_within = all(check.is_within for check in checks)
    return {
        "max_error": max_error,
        "rms_error": rms_error,
        "bound_share": share if math.isfinite(share) else None,
        "torch_max_error": torch_max_error,
        "torch_rms_error": torch_rms_error,
        "error_ratio": ratios,
        "is_within_bound": is_within,
        "passes": is_within and all(ratio is None or ratio <= MOST_RATIO for ratio in ratios.values()),
    }


def errors(differences: list[np.ndarray]) -> tuple[float, float]:
    """Maximum and root of the mean square. NaN and infinity are left out: the check against the bound compares them."""
    values = np.concatenate([value.ravel() for value in differences])
    values = values[np.isfinite(values)]
    return float(np.abs(values).max(initial=0.0)), float(np.sqrt(np.square(values).mean())) if values.size else 0.0


def largest_finite(values: np.ndarray) -> float:
    return float(np.abs(values[np.isfinite(values)]).max(initial=0.0))


def _ratio(error: float, of: float) -> float | None:
    """None where PyTorch makes no error at all: nothing is that many times as much."""
    return error / of if of > 0 else None


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="+", metavar="MODEL", help="names of the zoo, or paths of ONNX files")
    parser.add_argument("--seeds", type=positive, default=SEEDS, metavar="N", help=f"inputs (default: {SEEDS})")
    parser.add_argument("--threads", type=positive, metavar="N", help="default: the physical cores")
    parser.add_argument("--image-size", type=positive, metavar="N", help="for networks of the zoo")


def execute(arguments: argparse.Namespace) -> int:
    machine = environment.machine()
    rows: list[tuple[str, ...]] = [_HEADINGS]
    passes = True
    for name in dict.fromkeys(arguments.model):
        workload = Workload.named(name, arguments.image_size)
        print(f"{workload.name}: computing in float64", file=sys.stderr, flush=True)
        found, versions = measure(workload, arguments.seeds, arguments.threads or machine.cores)
        common = records.environment(machine, versions)
        keep(arguments.append, [{**common, **record} for record in found])
        rows += [_row(record, len(found) > 1) for record in found]
        passes &= all(record["passes"] for record in found)
    print_columns(rows)
    return 0 if passes else FAILED


_HEADINGS = (
    "model",
    "largest",
    "max error",
    "rms error",
    "of bound",
    "PyTorch max",
    "PyTorch rms",
    "ratio max",
    "rms",
    "",
)


def _row(record: Record, is_one_of_many: bool) -> tuple[str, ...]:
    def number(name: str) -> str:
        return f"{record[name]:.2e}"

    def share(value: Any) -> str:
        return "-" if value is None else f"{value:.2f}"

    return (
        f"{record['model']} {record['output']}" if is_one_of_many else record["model"],
        f"{record['largest']:.3g}",
        number("max_error"),
        number("rms_error"),
        share(record["bound_share"]),
        number("torch_max_error"),
        number("torch_rms_error"),
        share(record["error_ratio"]["max"]),
        share(record["error_ratio"]["rms"]),
        "ok" if record["passes"] else "FAILED",
    )


def main(argv: list[str] | None = None) -> int:
    return entry("accuracy", "Errors against float64, beside PyTorch's.", configure, execute, argv)


if __name__ == "__main__":
    sys.exit(main())
