"""The largest error of every algorithm on the paper's layers, against float64.

Every output element of a layer is compared, with the truth summed in float64. Algorithms run as they are built. A set
of points that no kernel is built with is *emulated*: the same three steps by NumPy in float32, with filters transformed
in float64 and rounded once as ours are. NumPy adds the channels in another order, so the emulation of our own points
stands beside it, to tell what that makes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

import waterline
from waterline.algorithms.winograd.transforms import POINTS, Filtering, filtering
from waterline.bench.experiments import Listener
from waterline.bench.experiments.winograd_paper import POINTS_F4, Accuracy
from waterline.bench.records import Record
from waterline.errors import Refused
from waterline.reference import conv2d
from waterline.spec import ConvSpec

PROTOCOL = "experiment winograd: accuracy"
DIRECT = "indirect"
SEEDS = 3
ALGORITHMS = (DIRECT, "winograd:f2x2", "winograd:f4x4", "winograd:f6x6", "fft")
# algorithm -> the field of `Accuracy` with the paper's error
PUBLISHED = {DIRECT: "direct", "winograd:f2x2": "f2x2", "winograd:f4x4": "f4x4"}


def emulations() -> dict[str, Filtering]:
    """Label -> what is emulated: F(4, 3) with our points and with the paper's."""
    sets = (POINTS[len(POINTS_F4)], tuple(map(Fraction, POINTS_F4)))
    return {f"f4x4 of {points_text(points)}": filtering(4, 3, points) for points in sets}


def points_text(points: Sequence[Fraction]) -> str:
    """0, +-2/3, ...: opposite points together."""
    words = []
    for point in points:
        if point and -point in points:
            words += [f"+-{point}"] if point > 0 else []
        else:
            words.append(str(point))
    return ", ".join(words)


def measure(
    threads: int, listener: Listener, layers: Mapping[str, Accuracy], seeds: int = SEEDS
) -> Iterator[list[Record]]:
    """The records of one layer after the other: one an algorithm, then one an emulation.

    Args:
        seeds: sets of inputs and filters. The largest error of a single one differs by a third from set to set.
    """
    for layer, published in layers.items():
        spec = published.spec
        differences: dict[tuple[str, bool], list[np.ndarray]] = {}
        for seed in range(seeds):
            random = np.random.default_rng(seed)
            x = random.uniform(-1, 1, (spec.n, spec.c, spec.h, spec.w)).astype(np.float32)
            weight = random.uniform(-1, 1, (spec.k, spec.c, spec.r, spec.s)).astype(np.float32)
            what = f"layer {layer}, data {seed + 1} of {seeds}"
            listener.show(f"{what}: in float64")
            truth = conv2d(x, weight, None, spec)
            for name, is_emulated, result in _results(what, spec, x, weight, threads, listener):
                differences.setdefault((name, is_emulated), []).append(result - truth)
        labels: Record = {"protocol": PROTOCOL, "model": spec.id, "layer": layer, "engine": "waterline"}
        labels |= {"dtype": "float32", "batch": spec.n, "threads": threads, "seeds": seeds}
        found = [
            {**labels, "algorithm": name, "is_emulated": is_emulated, **errors(values)}
            for (name, is_emulated), values in differences.items()
        ]
        direct = found[0]["max_error"]
        for record in found:
            theirs = PUBLISHED.get(record["algorithm"])
            error = getattr(published, theirs) if theirs else None
            record["ratio_to_direct"] = record["max_error"] / direct
            record["published_max_error"] = error
            record["published_ratio_to_direct"] = None if error is None else error / published.direct
        yield found


def errors(differences: Sequence[np.ndarray]) -> Record:
    """Of all elements of all data: the largest, and the root of the mean square."""
    return {
        "max_error": max(float(np.abs(values).max()) for values in differences),
        "rms_error": float(np.sqrt(np.mean([np.square(values).mean() for values in differences]))),
    }


def _results(
    what: str, spec: ConvSpec, x: np.ndarray, weight: np.ndarray, threads: int, listener: Listener
) -> Iterator[tuple[str, bool, np.ndarray]]:
    """(algorithm, whether it is emulated, its outputs), direct summation first."""
    for name in ALGORITHMS:
        if name.partition(":")[0] not in waterline.algorithms():
            continue
        listener.show(f"{what}: {name}")
        try:
            y = waterline.conv2d(x, weight, padding=spec.pad[:2], algorithm=name, num_threads=threads)
        except Refused as refusal:
            listener.say(f"{what}: {name} is left out: {refusal.message}")
            continue
        yield name, False, np.asarray(y)
    for name, minimal in emulations().items():
        listener.show(f"{what}: {name}, emulated")
        yield name, True, emulate(x, weight, spec, minimal)


def emulate(x: np.ndarray, weight: np.ndarray, spec: ConvSpec, minimal: Filtering) -> np.ndarray:
    """F(m x m, r x r) of one layer of stride 1 by NumPy in float32: x (N, C, H, W) -> (N, K, P, Q)."""
    a, b = (np.array(matrix, np.float32) for matrix in (minimal.a, minimal.b))
    g = np.array(minimal.g, np.float64)
    m, n = minimal.m, minimal.n
    grid = (-(-spec.p // m), -(-spec.q // m))
    top, left = spec.pad[:2]
    below, right = ((tiles - 1) * m + n - size for tiles, size in zip(grid, (top + spec.h, left + spec.w), strict=True))
    padded = np.pad(x, ((0, 0), (0, 0), (top, max(below, 0)), (left, max(right, 0))))
    tiles = sliding_window_view(padded, (n, n), axis=(2, 3))[:, :, ::m, ::m][:, :, : grid[0], : grid[1]]
    v = (b @ tiles @ b.T).transpose(4, 5, 1, 0, 2, 3).reshape(n, n, spec.c, -1)
    u = (g @ weight.astype(np.float64) @ g.T).astype(np.float32).transpose(2, 3, 0, 1)
    products = (u @ v).reshape(n, n, spec.k, spec.n, *grid).transpose(3, 2, 4, 5, 0, 1)
    y = (a @ products @ a.T).transpose(0, 1, 2, 4, 3, 5).reshape(spec.n, spec.k, grid[0] * m, grid[1] * m)
    return y[:, :, : spec.p, : spec.q]
