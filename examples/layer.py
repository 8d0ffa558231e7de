"""Compute one layer by every algorithm that serves it, and see what each costs.

python examples/layer.py
"""

import time

import numpy as np

import waterline


def main() -> None:
    random = np.random.default_rng(0)
    x = random.standard_normal((1, 64, 56, 56), np.float32)
    weight = random.standard_normal((64, 64, 3, 3), np.float32)
    truth = waterline.conv2d(x, weight, padding=1, algorithm="naive")
    operations = 2 * truth.size * weight[0].size
    for name in waterline.algorithms():
        try:
            y = waterline.conv2d(x, weight, padding=1, algorithm=name)
        except waterline.Refused as refusal:
            print(f"{name:12} refused: {refusal.message.rpartition(': ')[2]}")
            continue
        seconds = min(timed(x, weight, name) for _ in range(10))
        error = np.abs(y - truth).max() / np.abs(truth).max()
        print(f"{name:12} {1e6 * seconds:8.0f} us, {operations / seconds / 1e9:7.1f} GF/s, relative error {error:.1e}")


def timed(x: np.ndarray, weight: np.ndarray, algorithm: str) -> float:
    start = time.perf_counter()
    waterline.conv2d(x, weight, padding=1, algorithm=algorithm)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
