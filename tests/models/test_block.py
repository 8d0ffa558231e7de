"""Single blocks of the zoo's networks."""

from __future__ import annotations

import pytest

from waterline import models
from waterline.errors import InvalidArgument
from waterline.frontends import onnx
from waterline.graph.ops import Conv
from waterline.graph.passes import simplify


@pytest.mark.parametrize("kind", models.BLOCKS)
def test_a_block_keeps_the_shape_of_its_input(kind: str):
    graph = simplify(onnx.load(models.build_block(kind, 16, 6), {"input": (2, 16, 6, 6)}))
    assert graph.shapes["output"] == (2, 16, 6, 6)
    groups = [node.op.groups for node in graph.nodes if isinstance(node.op, Conv)]
    assert max(groups) == {"convfirst": 2, "convnext": 16, "inverted_residual": 96}[kind]


def test_there_is_no_other_block():
    with pytest.raises(InvalidArgument, match="no block 'bottleneck'"):
        models.build_block("bottleneck", 16, 6)
