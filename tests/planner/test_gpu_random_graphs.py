"""The random networks of `test_random_graphs`, planned for a GPU and run in Triton's interpreter."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import waterline
from planner.networks import random_inputs
from planner.test_random_graphs import Drawing
from waterline.reference import compare, network_bound, run


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.data())
def test_random_networks_compute_what_the_reference_does(data: st.DataObject) -> None:
    drawing = Drawing(data)
    for _ in range(data.draw(st.integers(3, 10), label="nodes")):
        drawing.node()
    graph = drawing.graph()
    net = waterline.compile(graph, device="cuda")
    for n in (2, data.draw(st.sampled_from([0, 1, 9]), label="another batch")):
        other = graph.with_shapes({"x": (n, *graph.shapes["x"][1:])})
        inputs = random_inputs(other)
        results = net(*inputs)
        named = dict(zip(graph.inputs, inputs, strict=True))
        expected, bounds = run(other, named), network_bound(other, named)
        for name, result in zip(graph.outputs, results if isinstance(results, tuple) else (results,), strict=True):
            largest = max((float(abs(value)) for value in expected[name].flat), default=0.0)
            comparison = compare(result, expected[name], max(4 * bounds[name], 1e-6 * largest, 1e-7))
            assert comparison.is_within, f"{name}, {n} images: {comparison}\n" + "\n".join(map(str, graph.nodes))
