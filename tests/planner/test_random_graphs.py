"""Random networks of convolutions and of everything that moves tensors, planned, run and compared with the reference.

What this is after: views, placements and lifetimes that are right one by one and wrong together.
"""

from __future__ import annotations

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import waterline
from planner.networks import MAX_POOL, RELU, Building, random_inputs
from waterline.graph import Graph
from waterline.graph.ops import AdaptivePool, Binary, Pad, Reshape, Slice, Transpose
from waterline.reference import compare, network_bound, run

SIZE = 4  # height and width of every image: few kernels, quickly compiled


class Drawing:
    """Draws nodes; keeps the images (C, 4, 4) that a next node may read."""

    def __init__(self, data: st.DataObject) -> None:
        self.data = data
        self.b = Building(x=(2, 3, SIZE, SIZE))
        self.images = {"x": 3}
        self.count = 0

    def pick(self) -> str:
        return self.data.draw(st.sampled_from(list(self.images)), label="of")

    def node(self) -> None:
        self.count += 1
        kinds = [
            "conv",
            "conv",
            "relu",
            "pool",
            "add",
            "concat",
            "concat",
            "slice",
            "shuffle",
            "tokens",
            "squeeze",
            "border",
        ]
        kind = self.data.draw(st.sampled_from(kinds), label=f"node {self.count}")
        getattr(self, f"_{kind}")(f"{kind}{self.count}")

    def keep(self, name: str, channels: int) -> None:
        self.images[name] = channels

    def _conv(self, name: str) -> None:
        x, k = self.pick(), self.data.draw(st.integers(1, 6))
        self.keep(self.b.conv(name, x, self.images[x], k, self.data.draw(st.sampled_from([1, 3]))), k)

    def _relu(self, name: str) -> None:
        x = self.pick()
        self.keep(self.b.add(name, RELU, x), self.images[x])

    def _pool(self, name: str) -> None:
        x = self.pick()
        self.keep(self.b.add(name, MAX_POOL, x), self.images[x])

    def _add(self, name: str) -> None:
        x = self.pick()
        other = self.data.draw(st.sampled_from([n for n, c in self.images.items() if c == self.images[x]]))
        self.keep(self.b.add(name, Binary("add", RELU.function), x, other), self.images[x])

    def _concat(self, name: str) -> None:
        parts = self.data.draw(st.lists(st.sampled_from(list(self.images)), min_size=2, max_size=4))
        if sum(self.images[p] for p in parts) <= 24:
            self.keep(self.b.concat(name, *parts), sum(self.images[p] for p in parts))

    def _slice(self, name: str) -> None:
        x = self.pick()
        first = self.data.draw(st.integers(0, self.images[x] - 1))
        last = self.data.draw(st.integers(first + 1, self.images[x]))
        self.keep(self.b.add(name, Slice((1,), (first,), (last,), (1,)), x), last - first)

    def _shuffle(self, name: str) -> None:
        x = self.pick()
        c = self.images[x]
        groups = self.data.draw(st.sampled_from([g for g in range(1, c + 1) if c % g == 0]))
        self.b.add(f"{name}.split", Reshape((0, groups, c // groups, SIZE, SIZE)), x)
        self.b.add(f"{name}.swap", Transpose((0, 2, 1, 3, 4)), f"{name}.split")
        self.keep(self.b.add(name, Reshape((0, c, SIZE, SIZE)), f"{name}.swap"), c)

    def _tokens(self, name: str) -> None:
        x = self.pick()
        self.b.add(f"{name}.flat", Reshape((0, self.images[x], SIZE * SIZE)), x)
        self.b.add(f"{name}.turn", Transpose((0, 2, 1)), f"{name}.flat")
        self.b.add(f"{name}.relu", RELU, f"{name}.turn")
        self.b.add(f"{name}.back", Transpose((0, 2, 1)), f"{name}.relu")
        self.keep(self.b.add(name, Reshape((0, self.images[x], SIZE, SIZE)), f"{name}.back"), self.images[x])

    def _squeeze(self, name: str) -> None:
        x = self.pick()
        self.b.add(f"{name}.mean", AdaptivePool("average"), x)
        self.keep(self.b.add(name, Binary("mul"), x, f"{name}.mean"), self.images[x])

    def _border(self, name: str) -> None:
        x = self.pick()
        self.b.add(f"{name}.out", Pad((0, 0, 1, 0), (0, 0, 0, 2)), x)
        self.keep(self.b.add(name, Slice((2, 3), (0, 1), (SIZE, SIZE + 1), (1, 1)), f"{name}.out"), self.images[x])

    def graph(self) -> Graph:
        made = [name for name in self.images if name != "x"] or ["x"]
        outputs = self.data.draw(st.lists(st.sampled_from(made), min_size=1, max_size=3), label="outputs")
        return self.b.graph(*outputs)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.data())
def test_random_networks_compute_what_the_reference_does(data: st.DataObject):
    drawing = Drawing(data)
    for _ in range(data.draw(st.integers(3, 14), label="nodes")):
        drawing.node()
    graph = drawing.graph()
    inputs = random_inputs(graph)
    named = dict(zip(graph.inputs, inputs, strict=True))
    results = waterline.compile(graph, num_threads=1, options={"algorithms": ["naive"]})(*inputs)
    results = results if isinstance(results, tuple) else (results,)
    expected, bounds = run(graph, named), network_bound(graph, named)
    for name, result in zip(graph.outputs, results, strict=True):
        allowed = max(bounds[name], 1e-6 * float(np.abs(expected[name]).max(initial=0.0)), 1e-7)
        comparison = compare(result, expected[name], allowed)
        assert comparison.is_within, f"{name}: {comparison}\n" + "\n".join(map(str, graph.nodes))
