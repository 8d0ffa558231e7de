"""All kernels for GPUs on single layers: checked, timed beside PyTorch with cuDNN, and recorded.

`python -m waterline.bench.gpu_suite --conv LAYERS --batch 1,64 --precision bf16 --seconds 420 --append FILE`

For each layer, batch and precision every algorithm that serves it, with its cheapest configs, takes turns with
`torch.nn.functional.conv2d` on channels-last tensors with cuDNN's own choice by measurement. Results are compared with
PyTorch's in float32 before they are timed. Two times: *warm*, calls one after the other in one CUDA graph; *cold*, each
call after memory that is larger than the second-level cache has been written. Where time runs out, the layers that are
left are named.

In Triton's interpreter (TRITON_INTERPRET=1) there is nothing to time: every kernel is run once and checked, so that the
command can be tried before there is a GPU. It is slow; give it small layers.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import triton

from waterline.algorithms.gpu import TORCH_TYPES, GpuAlgorithm, X, Y
from waterline.algorithms.gpu_registry import GPU_REGISTRY
from waterline.bench import records
from waterline.bench.command import counts, entry, keep, print_columns, words
from waterline.bench.records import Record
from waterline.codegen.gpu.kernel import is_interpreted
from waterline.errors import InvalidArgument
from waterline.machine.gpu import PRECISIONS, Gpu
from waterline.spec import ConvSpec
from waterline.train.gpu_registering import INTERPRETED, describe

PEER = "cudnn"
PROTOCOL = "gpu layers"
CONFIGS = 2  # of each algorithm
WARM_CALLS = 20  # in one graph
ROUNDS = 7
PEAK_SIZE = 8192  # of the matrices whose product is the peak that was measured
# Rounding when a result is stored, and of the operands of a product.
STORE_EPS = {"f32": 2.0**-23, "tf32": 2.0**-23, "f16": 2.0**-10, "bf16": 2.0**-7}
OPERAND_EPS = {"f32": 0.0, "tf32": 2.0**-10, "f16": 0.0, "bf16": 0.0}

HEADINGS = ("layer", "batch", "precision", "algorithm", "warm us", "cold us", "cudnn / ours", "of bound")

Call = Callable[[], None]


@dataclass(frozen=True)
class Case:
    """A layer with its tensors: x and y (n, h, w, c), the weight in f32, all as the precision stores them."""

    spec: ConvSpec
    precision: str
    x: torch.Tensor
    weight: torch.Tensor
    y: torch.Tensor

    @classmethod
    def drawn(cls, spec: ConvSpec, precision: str, device: str) -> Case:
        generator = torch.Generator(device).manual_seed(spec.c * 1000 + spec.k)
        dtype = TORCH_TYPES[precision]
        x = torch.randn(spec.n, spec.h, spec.w, spec.c, generator=generator, device=device).to(dtype)
        shape = (spec.k, spec.group_c, spec.r, spec.s)
        weight = torch.randn(shape, generator=generator, device=device).to(dtype).float()
        y = torch.empty(spec.n, spec.p, spec.q, spec.k, dtype=dtype, device=device)
        return cls(spec, precision, x, weight, y)

    def convolve(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        spec = self.spec
        top, left, bottom, right = spec.pad
        if (top, left) != (bottom, right):
            raise InvalidArgument(f"{spec.id}: PyTorch pads both sides alike")
        return torch.nn.functional.conv2d(x, weight, None, spec.stride, (top, left), spec.dilation, spec.groups)

    def truth(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The result in f32, and the sum of the sizes of its products."""
        x = self.x.float().permute(0, 3, 1, 2)
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # not rounded to tf32
            return self.convolve(x, self.weight), self.convolve(x.abs(), self.weight.abs())

    def disagreement(self, factor: float) -> float:
        """The largest error as a share of what rounding explains."""
        expected, size = self.truth()
        depth = self.spec.group_c * self.spec.taps
        error = (self.y.float().permute(0, 3, 1, 2) - expected).abs()
        bound = STORE_EPS[self.precision] * expected.abs()
        bound += (factor * depth * 2.0**-23 + 2 * OPERAND_EPS[self.precision]) * size + 1e-7
        return float((error / bound).nan_to_num(nan=float("inf")).max())


@dataclass(frozen=True)
class Variant:
    """One way to compute a case."""

    algorithm: str
    config: str
    call: Call


def variants(case: Case, gpu: Gpu, allowed: Sequence[str], refusals: dict[str, str]) -> Iterator[tuple[Variant, float]]:
    """Our ways to compute a case, each with the factor of its error; `refusals` gets the reasons of the others."""
    spec, precision = case.spec, case.precision
    for algorithm in GPU_REGISTRY:
        if allowed and algorithm.name not in allowed:
            continue
        if refusal := algorithm.refuse(spec, gpu, precision):
            refusals[algorithm.name] = refusal.reason
            continue
        for config in islice(algorithm.configs(spec, gpu, precision), CONFIGS):
            variant = Variant(algorithm.name, str(config), ours(case, algorithm, config, gpu))
            yield variant, algorithm.tolerance(spec, precision)


def ours(case: Case, algorithm: GpuAlgorithm, config: Any, gpu: Gpu) -> Call:
    tensors = {X: case.x, Y: case.y, **algorithm.pack(case.spec, config, case.weight, case.precision)}
    made = algorithm.implement(case.spec, config, gpu, case.precision)
    return lambda: made.run(tensors, case.precision)


def theirs(case: Case) -> Variant:
    """PyTorch's convolution on the same channels-last tensors."""
    x = case.x.permute(0, 3, 1, 2)
    weight = case.weight.to(case.x.dtype).to(memory_format=torch.channels_last)
    return Variant(PEER, "", lambda: void(case.convolve(x, weight)))


def void(_: torch.Tensor) -> None:
    """A result that nobody reads."""


# ---- times ----------------------------------------------------------------------------------------------------------
def graph_of(call: Call, calls: int) -> torch.cuda.CUDAGraph:
    """So many calls one after the other, recorded."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(calls):
            call()
    return graph


def elapsed_ms(work: Call) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    work()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end))


def timed(found: Sequence[Variant], gpu: Gpu, seed: int) -> dict[tuple[str, str], dict[str, list[float]]]:
    """Milliseconds of every variant in shuffled rounds, warm and cold."""
    graphs = {
        (each.algorithm, each.config): (graph_of(each.call, WARM_CALLS), graph_of(each.call, 1)) for each in found
    }
    flushed = torch.empty(4 * gpu.l2_bytes, dtype=torch.int8, device="cuda")
    times: dict[tuple[str, str], dict[str, list[float]]] = {key: {"warm": [], "cold": []} for key in graphs}
    order = random.Random(seed)
    for _ in range(ROUNDS):
        keys = list(graphs)
        order.shuffle(keys)
        for key in keys:
            many, one = graphs[key]
            times[key]["warm"].append(elapsed_ms(many.replay) / WARM_CALLS)
            flushed.zero_()
            times[key]["cold"].append(elapsed_ms(one.replay))
    return times


def measured(gpu: Gpu, precision: str) -> Gpu:
    """The GPU with the rates that PyTorch's matrix product and copy reach on it now."""
    dtype = TORCH_TYPES[precision]
    a = torch.randn(PEAK_SIZE, PEAK_SIZE, device="cuda").to(dtype)
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    product = graph_of(lambda: void(a @ a), 4)
    seconds = min(elapsed_ms(product.replay) for _ in range(5)) / 4e3
    torch.backends.cuda.matmul.allow_tf32 = before
    source = torch.empty(1 << 30, dtype=torch.int8, device="cuda")
    target = torch.empty_like(source)
    copy = graph_of(lambda: void(target.copy_(source)), 4)
    copying = min(elapsed_ms(copy.replay) for _ in range(5)) / 4e3
    peaks = {**dict(gpu.measured_flops_per_s), precision: 2.0 * PEAK_SIZE**3 / seconds}
    bandwidth = 2.0 * source.numel() / copying
    provenance = "measured with PyTorch's matrix product and copy"
    return replace(gpu, memory_bytes_per_s=bandwidth, measured_flops_per_s=tuple(peaks.items()), provenance=provenance)


# ---- the command ----------------------------------------------------------------------------------------------------
def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--conv", nargs="+", required=True, metavar="SPEC", help="ids of layers, or files of them")
    parser.add_argument("--batch", type=counts, default=[1], metavar="N,..", help="default: 1")
    parser.add_argument("--precision", type=words, default=["bf16"], metavar="P,..", help=", ".join(PRECISIONS))
    parser.add_argument("--algorithm", type=words, default=[], metavar="A,..", help="default: all that serve a layer")
    parser.add_argument("--seconds", type=float, default=420.0, help="of the whole run (default: 420)")


def execute(arguments: argparse.Namespace) -> int:
    for name in arguments.precision:
        if name not in PRECISIONS:
            raise InvalidArgument(f"precision {name!r} is not known", f"accepted: {', '.join(PRECISIONS)}")
    known = [algorithm.name for algorithm in GPU_REGISTRY]
    for name in arguments.algorithm:
        if name not in known:
            raise InvalidArgument(f"algorithm {name!r} is not known", f"accepted: {', '.join(known)}")
    can_time = torch.cuda.is_available() and not is_interpreted()
    if not can_time and not is_interpreted():
        raise InvalidArgument("PyTorch finds no NVIDIA GPU", "TRITON_INTERPRET=1 checks kernels without one")
    if not can_time:
        return run(arguments, INTERPRETED, can_time=False)
    triton.set_allocator(lambda size, align, stream: torch.empty(size, dtype=torch.int8, device="cuda"))
    with torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=True):
        return run(arguments, describe(0), can_time=True)


def run(arguments: argparse.Namespace, gpu: Gpu, *, can_time: bool) -> int:
    """Every layer, batch and precision until the time is over. Returns 1 if a result was wrong."""
    end = time.monotonic() + arguments.seconds
    rows: list[Sequence[str]] = [
        ("layer", "batch", "precision", "algorithm", "warm us", "cold us", "cudnn / ours", "of bound")
    ]
    found: list[Record] = []
    left, wrong, known = [], 0, gpu
    for precision in arguments.precision:
        known = measured(known, precision) if can_time else gpu
        for spec in layers_of(arguments.conv):
            for batch in arguments.batch:
                if time.monotonic() > end:
                    left.append(f"{spec.with_batch(batch).id} {precision}")
                    continue
                print(f"{spec.with_batch(batch).id} {precision}", file=sys.stderr)
                case = Case.drawn(spec.with_batch(batch), precision, "cuda" if can_time else "cpu")
                results = one_case(case, known, arguments.algorithm, can_time=can_time)
                wrong += sum(each["disagreement"] is not None and each["disagreement"] > 1 for each in results)
                found += results
                rows += [row_of(each, results) for each in results]
    print_columns(rows)
    for each in left:
        print(f"left for want of time: {each}", file=sys.stderr)
    versions = {"torch": torch.__version__, "triton": triton.__version__}
    common = records.environment(known, versions)
    keep(arguments.append, [{**common, **each} for each in found])
    return 1 if wrong else 0


def one_case(case: Case, gpu: Gpu, allowed: Sequence[str], *, can_time: bool) -> list[Record]:
    refusals: dict[str, str] = {}
    checked: list[tuple[Variant, float | None]] = []
    for variant, factor in variants(case, gpu, allowed, refusals):
        case.y.fill_(float("nan"))
        variant.call()
        checked.append((variant, case.disagreement(factor)))
    if not checked:
        raise InvalidArgument(
            f"no algorithm serves {case.spec.id}", "; ".join(f"{name}: {why}" for name, why in refusals.items())
        )
    right = [variant for variant, disagreement in checked if disagreement is not None and disagreement <= 1]
    times = timed([*right, theirs(case)], gpu, case.spec.k) if can_time else {}
    if can_time:
        checked.append((theirs(case), None))
    return [record_of(case, variant, disagreement, times, gpu) for variant, disagreement in checked]


def record_of(
    case: Case,
    variant: Variant,
    disagreement: float | None,
    times: dict[tuple[str, str], dict[str, list[float]]],
    gpu: Gpu,
) -> Record:
    spec, samples = case.spec, times.get((variant.algorithm, variant.config), {})
    moved_bytes = spec.least_bytes // spec.elem_bytes * case.x.element_size()
    bound_ms = 1e3 * max(spec.flops / gpu.peak(case.precision), moved_bytes / gpu.memory_bytes_per_s)
    record: Record = {
        "protocol": PROTOCOL,
        "model": spec.id,
        "batch": spec.n,
        "dtype": case.precision,
        "engine": variant.algorithm if variant.algorithm == PEER else "waterline",
        "algorithm": variant.algorithm,
        "config": variant.config,
        "flops": spec.flops,
        "bound_ms": bound_ms,
        "peak_flops_per_s": gpu.peak(case.precision),
        "memory_bytes_per_s": gpu.memory_bytes_per_s,
        "disagreement": disagreement,
    }
    for name, values in samples.items():
        record[f"{name}_ms"] = statistics.median(values)
        record[f"{name}_samples"] = [records.rounded(value) for value in values]
    return record


def row_of(record: Record, results: Sequence[Record]) -> tuple[str, ...]:
    peer = next((each for each in results if each["algorithm"] == PEER), None)
    verdict = "" if record["disagreement"] is None else f", error {record['disagreement']:.2f} of the bound"
    cells = [record["model"], str(record["batch"]), record["dtype"], record["algorithm"] + verdict]
    cells += [f"{1e3 * record[name]:.1f}" if name in record else "" for name in ("warm_ms", "cold_ms")]
    cells.append(f"{peer['warm_ms'] / record['warm_ms']:.2f}" if peer and "warm_ms" in record else "")
    cells.append(f"{100 * record['bound_ms'] / record['warm_ms']:.1f} %" if "warm_ms" in record else "")
    return tuple(cells)


def layers_of(given: Sequence[str]) -> list[ConvSpec]:
    """Of ids and of files with one a line."""
    found = []
    for text in given:
        lines = Path(text).read_text(encoding="utf-8").splitlines() if Path(text).is_file() else [text]
        found += [ConvSpec.parse(line) for line in lines if line.strip() and not line.startswith("#")]
    return found


def main(argv: Sequence[str] | None = None) -> int:
    return entry("gpu_suite", __doc__.splitlines()[0], configure, execute, argv)


if __name__ == "__main__":
    sys.exit(main())
