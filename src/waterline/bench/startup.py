"""From nothing to the first result: import, compilation with an empty and with a warm cache, first run, peak memory.

`python -m waterline.bench.startup resnet50 --vs onnxruntime --runs 5`

Every start is a new process, so nothing is left over from the one before but the operating system's own caches. A run
starts ours twice, first with a new cache folder and then with the one that the first has filled, and each peer once;
the order of the engines is shuffled for every run. With an empty cache folder the machine is calibrated as well, as it
is once a week: that is a phase of its own, not part of the compilation, but its buffer is part of the peak memory.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from waterline.api import environment
from waterline.bench import peers, records, startup_process
from waterline.bench.command import check_threads, entry, keep, positive, print_columns, smallest_batch, words
from waterline.bench.comparison import AGREEMENT, difference
from waterline.bench.engine import Task
from waterline.bench.records import Record
from waterline.bench.workload import Workload
from waterline.errors import Error, InvalidArgument

PEERS = tuple(name for name in startup_process.ENGINES if name != "waterline")
_LIMIT_S = 600.0


@dataclass(frozen=True)
class Variant:
    """What is started. `cache`: "empty" or "warm"; None for engines without one."""

    engine: str
    cache: str | None = None

    def __str__(self) -> str:
        return f"{self.engine}, {self.cache} cache" if self.cache else self.engine


OURS = (Variant("waterline", "empty"), Variant("waterline", "warm"))


@dataclass(frozen=True)
class Start:
    """What one process found. `phases`: seconds, and `peak_memory_bytes`, by name."""

    version: str
    phases: dict[str, float]
    outputs: list[np.ndarray]


@dataclass(frozen=True)
class Launcher:
    """Starts processes for one model.

    Attributes:
        model: path of the ONNX file. shapes: input -> its shape.
    """

    model: Path
    shapes: dict[str, tuple[int, ...]]
    threads: int

    def __call__(self, variant: Variant, folder: Path) -> Start:
        """One start; ours keeps its cache in `folder`.

        Raises:
            Error: the process ended without a result, with its last words.
        """
        outputs = folder / "outputs.npz"
        job = {"engine": variant.engine, "model": str(self.model), "shapes": self.shapes, "threads": self.threads}
        # -P: the file's folder is not searched for modules, or its neighbours would hide others of the same name.
        command = [sys.executable, "-P", startup_process.__file__, json.dumps({**job, "outputs": str(outputs)})]
        surroundings = {**os.environ, "WATERLINE_CACHE_DIR": str(folder / "cache")}
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=_LIMIT_S, env=surroundings, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise Error(f"{variant} did not start within {_LIMIT_S:.0f} s", "try a smaller network") from error
        if done.returncode != 0:
            reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
            raise Error(f"{variant} cannot be started: {reason}", f"{self.model.name} is what it was to run")
        result = json.loads(done.stdout.splitlines()[-1])
        with np.load(outputs) as arrays:
            return Start(result["version"], result["phases"], [arrays[name] for name in arrays.files])


def measure(
    vs: Sequence[str], runs: int, launch: Callable[[Variant, Path], Start], seed: int = 0
) -> dict[Variant, list[Start]]:
    """Start ours (with an empty cache, then with the warm one) and the peers `runs` times, interleaved.

    Args:
        launch: what starts a process; a run's processes share the folder.
        seed: of the order.
    """
    units: list[tuple[Variant, ...]] = [OURS, *((Variant(name),) for name in vs)]
    found: dict[Variant, list[Start]] = {variant: [] for unit in units for variant in unit}
    shuffler = random.Random(seed)
    order = list(units)
    for _ in range(runs):
        shuffler.shuffle(order)
        with tempfile.TemporaryDirectory(prefix="waterline-startup-") as folder:
            for unit in order:
                for variant in unit:
                    found[variant].append(launch(variant, Path(folder)))
    return found


def summarise(found: dict[Variant, list[Start]], labels: dict[str, Any]) -> list[Record]:
    """A record for each variant: the median of every phase over the runs, and the samples.

    Raises:
        Error: the results of two starts disagree.
    """
    expected = found[OURS[0]][0].outputs
    # A run's two starts of ours share a cache, and with it the measured rates that the plan is made from: the same
    # bits. Runs measure anew, and may choose other algorithms.
    if any(difference(warm.outputs, cold.outputs) for cold, warm in zip(*(found[v] for v in OURS), strict=True)):
        raise Error(f"{OURS[0]} and {OURS[1]} disagree", "the cache is to blame: it must not change what is computed")
    summaries = []
    for variant, starts in found.items():
        disagreement = max(difference(start.outputs, expected) for start in starts)
        if not disagreement <= AGREEMENT:
            raise Error(
                f"{variant} and {OURS[0]} disagree by {disagreement:.2g} of the largest output",
                "one of them computes something else: `waterline check` tells whether it is this one",
            )
        samples = {phase: [start.phases[phase] for start in starts] for phase in starts[0].phases}
        summary: Record = {**labels, "engine": variant.engine, "cache": variant.cache, "runs": len(starts)}
        summary |= {phase: statistics.median(values) for phase, values in samples.items()}
        summaries.append({**summary, "disagreement": disagreement, "samples": samples})
    return summaries


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a name of the zoo, or the path of an ONNX file")
    parser.add_argument("--vs", type=words, default=[], metavar="PEER,..", help=f"of {', '.join(PEERS)}")
    parser.add_argument("--runs", type=positive, default=5, metavar="N", help="default: 5")
    parser.add_argument("--threads", type=positive, metavar="N", help="default: the physical cores")
    parser.add_argument("--image-size", type=positive, metavar="N", help="for networks of the zoo")


def execute(arguments: argparse.Namespace) -> int:
    for name in arguments.vs:
        _check_peer(name)
    workload = Workload.named(arguments.model, arguments.image_size)
    machine = environment.machine()
    threads = arguments.threads or machine.cores
    check_threads(threads, machine)
    batch = smallest_batch(workload)
    shapes = workload.shapes_for(batch)
    with tempfile.TemporaryDirectory(prefix="waterline-startup-") as folder:
        model = Task(workload.model, {}, threads).model_bytes_or_path()
        path = Path(folder) / f"{workload.name}.onnx" if isinstance(model, bytes) else Path(model)
        if isinstance(model, bytes):
            path.write_bytes(model)
        launcher = Launcher(path.resolve(), shapes, threads)

        def launch(variant: Variant, folder: Path) -> Start:
            print(f"{workload.name}: {variant}", file=sys.stderr, flush=True)
            return launcher(variant, folder)

        found = measure(arguments.vs, arguments.runs, launch)
    labels = {"protocol": "startup", "model": workload.name, "dtype": "float32", "batch": batch, "threads": threads}
    summaries = summarise(found, labels)
    common = records.environment(machine, {variant.engine: starts[0].version for variant, starts in found.items()})
    keep(arguments.append, [{**common, **summary} for summary in summaries])
    print_columns([_HEADINGS, *(_row(variant, summary) for variant, summary in zip(found, summaries, strict=True))])
    return 0


def _check_peer(name: str) -> None:
    """Raises InvalidArgument: the start of such a peer is not measured, or it is not installed."""
    if name not in PEERS:
        raise InvalidArgument(f"the start of {name!r} is not measured", f"peers are {', '.join(PEERS)}")
    _, package, command = peers.PEERS[name]
    if find_spec(package) is None:
        raise InvalidArgument(f"the peer {name!r} needs {package}, which is not installed", command)


_HEADINGS = ("engine", "import s", "calibrate s", "compile s", "first run ms", "peak MiB")


def _row(variant: Variant, summary: Record) -> tuple[str, ...]:
    calibrate = f"{summary['calibrate_s']:.2f}" if "calibrate_s" in summary else ""
    return (
        str(variant),
        f"{summary['import_s']:.2f}",
        calibrate,
        f"{summary['compile_s']:.2f}",
        f"{1e3 * summary['first_run_s']:.1f}",
        f"{summary['peak_memory_bytes'] / 2**20:.0f}",
    )


def main(argv: list[str] | None = None) -> int:
    return entry("startup", "From nothing to the first result, in new processes.", configure, execute, argv)


if __name__ == "__main__":
    sys.exit(main())
