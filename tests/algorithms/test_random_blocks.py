"""Random blocks: chains and branches of every kind of layer, on random images, strips and bands."""

from __future__ import annotations

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from algorithms.blocks import RELU, SILU, Net, block_steps, check, fused_plan
from algorithms.layers import LOCAL
from waterline.errors import Error
from waterline.graph import Graph

KINDS = ("point", "point", "dense", "depthwise", "depthwise", "grouped", "pool", "norm", "unary", "binary", "prelu")


class _Drawing:
    """Draws layers that read the last tensor, and others of the same shape as residuals or operands."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        size = draw(st.tuples(st.integers(2, 9), st.integers(1, 7)))
        self.b = Net(x=(draw(st.integers(1, 2)), draw(st.sampled_from([3, 4, 8, 17])), *size))
        # The first layer brings the image into the order of blocks, and is one of them.
        self.last = self.b.layer("x", draw(st.sampled_from([8, 16, 24])), act=RELU)

    def alike(self, channels: int, size: tuple[int, ...]) -> str:
        """A tensor of this shape that is there already, or ""."""
        found = [x for x, shape in self.b.shapes.items() if shape[1:] == (channels, *size) and x != "x"]
        return self.draw(st.sampled_from(["", *(x for x in found if "." not in x)]))

    def layer(self) -> None:
        kind = self.draw(st.sampled_from(KINDS))
        self.last = getattr(self, f"_{kind}")(self.last)

    def _window(self) -> dict[str, object]:
        size = self.draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
        return {
            "size": size,
            "stride": self.draw(st.sampled_from([1, 1, 2, (3, 1)])),
            "dilation": self.draw(st.sampled_from([1, 1, 2])),
            "pad": tuple(self.draw(st.integers(0, size[i % 2])) for i in range(4)),
            "act": self.draw(st.sampled_from([None, RELU, SILU])),
        }

    def _point(self, x: str) -> str:
        k, size = self.draw(st.sampled_from([5, 8, 16, 24])), self.b.shapes[x][2:]
        return self.b.layer(x, k, act=self.draw(st.sampled_from([None, SILU])), add=self.alike(k, size))

    def _dense(self, x: str) -> str:
        return self.b.layer(x, self.draw(st.sampled_from([6, 8, 16])), **self._window())

    def _depthwise(self, x: str) -> str:
        return self.b.depthwise(x, **self._window())

    def _grouped(self, x: str) -> str:
        c = self.b.channels(x)
        groups = self.draw(st.sampled_from([g for g in (1, 2, 3, 4) if c % g == 0]))
        return self.b.layer(x, c, groups=groups, **self._window())

    def _pool(self, x: str) -> str:
        size = self.draw(st.integers(1, 3))
        kind, stride = self.draw(st.sampled_from(["max", "average"])), self.draw(st.integers(1, 3))
        return self.b.pool(x, kind, size, stride, self.draw(st.integers(0, size // 2)))

    def _norm(self, x: str) -> str:
        return self.b.norm(x)

    def _unary(self, x: str) -> str:
        return self.b.unary(x)

    def _binary(self, x: str) -> str:
        other = self.alike(self.b.channels(x), self.b.shapes[x][2:])
        kind = self.draw(st.sampled_from(["add", "mul"]))
        return self.b.binary(kind, x, other or self.b.weights(self.b.named("scale"), 1, self.b.channels(x), 1, 1))

    def _prelu(self, x: str) -> str:
        return self.b.prelu(x)


@st.composite
def networks(draw: st.DrawFn) -> Graph:
    drawing = _Drawing(draw)
    for _ in range(draw(st.integers(1, 5))):
        try:
            drawing.layer()
        except Error:  # a window that is larger than its image
            assume(False)
    return drawing.b.done(drawing.last)


@settings(max_examples=6, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(networks(), st.integers(1, 4), st.integers(1, 3))
def test_random_blocks(forked, graph: Graph, strip_rows: int, window_strips: int):
    assume(block_steps(fused_plan(graph, LOCAL, strip_rows)))
    check(graph, LOCAL, forked, [strip_rows], bands=[1, 2, 9], window_strips=window_strips)
