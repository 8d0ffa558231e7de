"""One network, many threads and batches: what a server does. Results do not depend on any of it.

python examples/service.py
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

import waterline
from waterline import models


def main() -> None:
    session = waterline.Session(models.build("squeezenet1_1", image_size=64), num_threads=2)
    (entry,) = session.get_inputs()
    images = np.random.default_rng(0).standard_normal((16, 3, 64, 64), np.float32)
    (expected,) = session.run(None, {entry.name: images})

    def serve(first: int, count: int) -> bool:
        (scores,) = session.run(None, {entry.name: images[first : first + count]})
        return np.array_equal(scores, expected[first : first + count])

    requests = [(first, count) for first in range(12) for count in (1, 2, 4)]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda request: serve(*request), requests))
    print(f"{sum(answers)} of {len(answers)} answers are bitwise those of the whole batch")
    if not all(answers):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
