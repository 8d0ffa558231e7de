"""Graph -> steps: decides where every tensor lies, and inserts copies where an operation needs another layout.

NHWC inside. A tensor of rank 4 is written with its channels innermost; transposes, reshapes and slices become views of
what is there already; the caller's NCHW arrays are converted at the edges only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from waterline.algorithms.indirect.model import MERGE_BELOW_CHANNELS
from waterline.graph import Graph, Node
from waterline.graph.block import BlockSpec
from waterline.graph.ops import (
    AdaptivePool,
    BatchNorm,
    Binary,
    Concat,
    Conv,
    ConvTranspose,
    Expand,
    GroupNorm,
    LayerNorm,
    Linear,
    LocalResponseNorm,
    MatMul,
    Op,
    Pad,
    Pool,
    PRelu,
    Reduce,
    Reshape,
    Resize,
    Slice,
    Transpose,
    Unary,
)
from waterline.planner import codec
from waterline.planner.placement import Placement, place_concats
from waterline.planner.storage import Storage, has_linear_pixels, is_channels_last
from waterline.spec import ConvSpec, Epilogue, TensorView, channels_last

# First layers have so few channels that a padded copy of the image (which the conversion to NHWC makes anyway) is
# cheaper than finding every pixel through the indirection buffer.
PAD_BELOW_CHANNELS = 5
# Where a dense image may begin: 16 bytes of halves, which bulk copies want.
ALIGNED_ELEMS = 8


@dataclass(frozen=True)
class Copy(Op):
    """Moves a tensor to another layout. Made by the planner only."""

    def infer(self, inputs: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
        return [inputs[0]]


@dataclass(frozen=True)
class Fused(Op):
    """So many layers in one kernel. Made by the planner only."""

    layers: int

    def infer(self, inputs: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
        return [inputs[0]]


for _class in (Copy, Fused):
    codec.register(_class)


@dataclass(frozen=True)
class Layouts:
    """What the kernels of a target want of tensors.

    Attributes:
        pads_first_layers: images of few channels get a padded copy.
        places_concats: kernels write ranges of channels, so that what is concatenated is written where it belongs.
        has_dense_images: convolutions read and write images without gaps only, which begin at multiples of
            `ALIGNED_ELEMS`.
        has_nhwc_edges: the network is given and returns its images in NHWC order.
    """

    pads_first_layers: bool = True
    places_concats: bool = True
    has_dense_images: bool = False
    has_nhwc_edges: bool = False

    def edge(self, shape: tuple[int, ...]) -> TensorView:
        """How a tensor of the caller's lies."""
        is_image = self.has_nhwc_edges and len(shape) == 4
        return TensorView.dense(shape, channels_last(4) if is_image else tuple(range(len(shape))))


CPU_LAYOUTS = Layouts()


@dataclass
class Layer:
    """A step before its algorithm is chosen. `spec` is set for what algorithms compute."""

    name: str
    op: Op
    inputs: list[Storage]
    outputs: list[Storage]
    spec: ConvSpec | BlockSpec | None = None
    weight: str = ""
    bias: str = ""
    alone: str = ""  # why it is in no block


@dataclass
class Lowered:
    """Layers in order, and the roots that their storages lie in: name -> elements, and the kind of each."""

    layers: list[Layer] = field(default_factory=list)
    root_elems: dict[str, int] = field(default_factory=dict)
    constants: dict[str, str] = field(default_factory=dict)  # root -> the graph's constant
    inputs: dict[str, int] = field(default_factory=dict)  # root -> number of the caller's array
    outputs: dict[str, int] = field(default_factory=dict)

    @property
    def weight_bytes(self) -> int:
        """Weights of all layers, as the model has them; what several layers share counts once."""
        return sum({layer.weight: layer.spec.weight_bytes for layer in self.layers if layer.spec}.values())


def lower(graph: Graph, layouts: Layouts = CPU_LAYOUTS) -> Lowered:
    return _Lowering(graph, layouts).run()


class _Lowering:
    def __init__(self, graph: Graph, layouts: Layouts) -> None:
        self.graph = graph
        self.layouts = layouts
        self.result = Lowered()
        self.places = place_concats(graph) if layouts.places_concats else {}
        self.storages: dict[str, Storage] = {}
        self.copies: dict[tuple[str, tuple[int, ...]], Storage] = {}

    def run(self) -> Lowered:
        graph, result = self.graph, self.result
        for i, name in enumerate(graph.inputs):
            root = f"input:{name}"
            result.inputs[root] = i
            result.root_elems[root] = math.prod(graph.shapes[name])
            self.storages[name] = Storage(root, 0, self.layouts.edge(graph.shapes[name]))
        for node in graph.nodes:
            self._lower_node(node)
        for i, name in enumerate(graph.outputs):
            self._deliver(name, i)
        return result

    # ---- tensors ------------------------------------------------------------------------------------------------
    def _storage(self, name: str) -> Storage:
        """Where a tensor lies. Constants lie in the graph, row by row."""
        if name in self.graph.constants and name not in self.storages:
            root = f"constant:{name}"
            self.result.constants[root] = name
            self.result.root_elems[root] = math.prod(self.graph.shapes[name])
            self.storages[name] = Storage(root, 0, TensorView.dense(self.graph.shapes[name]))
        return self.storages[name]

    def _new(self, root: str, shape: tuple[int, ...], order: tuple[int, ...]) -> Storage:
        assert root not in self.result.root_elems, root
        self.result.root_elems[root] = math.prod(shape)
        return Storage(root, 0, TensorView.dense(shape, order))

    def _allocate(self, name: str, order: tuple[int, ...]) -> Storage:
        """Memory for a node's output: its own, or its place in a concatenation."""
        shape = self.graph.shapes[name]
        place = self.places.get(name)
        if place is not None:
            return self._placed(shape, place)
        if name in self.storages:  # a concatenation that one of its inputs has made room for
            return self.storages[name]
        return self._new(name, shape, order)

    def _placed(self, shape: tuple[int, ...], place: Placement) -> Storage:
        whole = self.storages.get(place.whole)
        if whole is None:
            whole = self._new(place.whole, self.graph.shapes[place.whole], channels_last(4))
            self.storages[place.whole] = whole
        return Storage(
            whole.root, whole.offset + place.channel * whole.view.strides[1], TensorView(shape, whole.view.strides)
        )

    def _copied(self, source: Storage, order: tuple[int, ...], reason: str) -> Storage:
        """The tensor without gaps in `order`; a copy is made once and shared by all who need it."""
        key = (repr(source), order)
        if key not in self.copies:
            root = f"{source.root}:{reason}{len(self.copies)}"
            target = self._new(root, source.view.shape, order)
            self.result.layers.append(Layer(root, Copy(), [source], [target]))
            self.copies[key] = target
        return self.copies[key]

    def _channels_last(self, source: Storage, *, linear: bool = False) -> Storage:
        is_served = is_channels_last(source.view) and (not linear or has_linear_pixels(source.view))
        if self.layouts.has_dense_images:
            is_served = self._is_dense_image(source)
        return source if is_served else self._copied(source, channels_last(4), "nhwc")

    def _is_dense_image(self, storage: Storage) -> bool:
        """Constants are in f32, whatever the network's type is: a copy is of the network's."""
        is_ours = storage.root not in self.result.constants
        return is_ours and storage.view.is_dense(channels_last(4)) and storage.offset % ALIGNED_ELEMS == 0

    def _dense(self, source: Storage) -> Storage:
        """Row by row in the logical order."""
        if source.view.is_dense(tuple(range(len(source.view.shape)))):
            return source
        return self._copied(source, tuple(range(len(source.view.shape))), "rows")

    # ---- nodes --------------------------------------------------------------------------------------------------
    def _lower_node(self, node: Node) -> None:
        op = node.op
        match op:
            case Conv():
                self._lower_conv(node, op)
            case ConvTranspose():
                self._lower_transpose(node, op)
            case Linear():
                self._lower_linear(node, op)
            case Transpose():
                self.storages[node.output] = self._storage(node.inputs[0]).transposed(op.perm)
            case Reshape():
                self._lower_reshape(node)
            case Slice():
                source = self._storage(node.inputs[0])
                view = source.sliced(op.ranges(source.view.shape))
                if view is None:
                    self._lower_operator(node)
                else:
                    self.storages[node.output] = view
            case Concat():
                self._lower_concat(node, op)
            case _:
                self._lower_operator(node)

    def _lower_conv(self, node: Node, op: Conv) -> None:
        shapes = self.graph.shapes
        spec = op.spec(shapes[node.inputs[0]], shapes[node.inputs[1]], self.graph.dtype)
        x = self._storage(node.inputs[0])
        if self.layouts.pads_first_layers and _is_first_layer(spec):
            x, spec = self._padded(node, x, spec)
        self._convolve(node, op, spec, self._channels_last(x, linear=spec.is_pointwise))

    def _padded(self, node: Node, x: Storage, spec: ConvSpec) -> tuple[Storage, ConvSpec]:
        """A dense NHWC copy of a small image with its border of zeros, and the layer that reads it."""
        top, left, bottom, right = spec.pad
        op = Pad((0, 0, top, left), (0, 0, bottom, right))
        shape = (spec.n, spec.c, spec.h + top + bottom, spec.w + left + right)
        padded = self._new(f"{node.name}:padded", shape, channels_last(4))
        self.result.layers.append(Layer(f"{node.name}:pad", op, [x], [padded]))
        return padded, replace(spec, h=shape[2], w=shape[3], pad=(0, 0, 0, 0))

    def _convolve(self, node: Node, op: Conv | Linear, spec: ConvSpec, x: Storage) -> None:
        y = self._allocate(node.output, channels_last(4))
        inputs = [x, self._storage(node.inputs[1])]
        if spec.epilogue.bias:
            inputs.append(self._storage(node.inputs[2]))
        if spec.epilogue.residual:
            inputs.append(self._channels_last(self._storage(node.inputs[-1]), linear=True))
        self._layer(node, op, inputs, y, spec)
        self.storages[node.output] = y

    def _layer(self, node: Node, op: Op, inputs: list[Storage], y: Storage, spec: ConvSpec) -> None:
        bias = node.inputs[2] if spec.epilogue.bias else ""
        self.result.layers.append(Layer(node.name, op, inputs, [y], spec, node.inputs[1], bias))

    def _lower_transpose(self, node: Node, op: ConvTranspose) -> None:
        """A transposed convolution is one of the image with zeros between its pixels, with the filters turned round."""
        n, c, h, w = self.graph.shapes[node.inputs[0]]
        _, group_k, r, s = self.graph.shapes[node.inputs[1]]
        reach = (op.dilation[0] * (r - 1), op.dilation[1] * (s - 1))
        pad = (
            reach[0] - op.pad[0],
            reach[1] - op.pad[1],
            reach[0] - op.pad[2] + op.output_pad[0],
            reach[1] - op.pad[3] + op.output_pad[1],
        )
        spec = ConvSpec(
            n,
            c,
            h,
            w,
            group_k * op.groups,
            r,
            s,
            pad=pad,
            dilation=op.dilation,
            groups=op.groups,
            upsample=op.stride,
            dtype=self.graph.dtype,
            epilogue=Epilogue(bias=op.bias),
        )
        y = self._allocate(node.output, channels_last(4))
        x = self._channels_last(self._storage(node.inputs[0]))
        inputs = [x, *(self._storage(name) for name in node.inputs[1:])]
        self._layer(node, op, inputs, y, spec)
        self.storages[node.output] = y

    def _lower_linear(self, node: Node, op: Linear) -> None:
        """Rows are pixels: the layer becomes a 1x1 convolution of (N, C, 1, rows)."""
        shapes = self.graph.shapes
        spec = op.spec(shapes[node.inputs[0]], shapes[node.inputs[1]], self.graph.dtype)
        as_rows = (spec.n, spec.h * spec.w, spec.c)
        x = self._rows(self._storage(node.inputs[0]), as_rows)
        order = self._storage(node.inputs[0]).view.order
        if order[-1] != len(order) - 1:
            order = tuple(range(len(order)))
        y = self._allocate(node.output, order)
        out_rows = self._as_pixels(y, (spec.n, spec.h * spec.w, spec.k))
        if out_rows is None:
            y = self._new(f"{node.output}:own", y.view.shape, tuple(range(len(order))))
            out_rows = self._as_pixels(y, (spec.n, spec.h * spec.w, spec.k))
        assert out_rows is not None
        inputs = [x, self._storage(node.inputs[1])]
        if spec.epilogue.bias:
            inputs.append(self._storage(node.inputs[2]))
        if spec.epilogue.residual:
            inputs.append(self._rows(self._storage(node.inputs[-1]), (spec.n, spec.h * spec.w, spec.k)))
        spec = replace(spec, h=1, w=spec.h * spec.w)
        self._layer(node, op, inputs, out_rows, spec)
        self.storages[node.output] = y

    def _rows(self, source: Storage, rows: tuple[int, int, int]) -> Storage:
        found = self._as_pixels(source, rows)
        if found is None:
            found = self._as_pixels(self._dense(source), rows)
        if found is None or (self.layouts.has_dense_images and not self._is_dense_image(found)):
            found = self._as_pixels(self._copied(source, tuple(range(len(source.view.shape))), "rows"), rows)
        assert found is not None
        return found

    def _as_pixels(self, source: Storage, rows: tuple[int, int, int]) -> Storage | None:
        """(..., C) seen as (N, C, 1, rows) with neighbouring channels, if it can be."""
        view = source.reshaped(rows)
        if view is None or (rows[2] > 1 and view.view.strides[2] != 1):
            return None
        n, m, c = rows
        strides = view.view.strides
        return replace(view, view=TensorView((n, c, 1, m), (strides[0], 1, strides[1] * max(m, 1), strides[1])))

    def _lower_reshape(self, node: Node) -> None:
        source, shape = self._storage(node.inputs[0]), self.graph.shapes[node.output]
        view = source.reshaped(shape)
        if view is None and len(shape) == 4:
            view = self._joined_channels(source, shape)
        if view is None:
            view = self._dense(source).reshaped(shape)
        assert view is not None
        self.storages[node.output] = view

    def _joined_channels(self, source: Storage, shape: tuple[int, ...]) -> Storage | None:
        """(N, C1, C2, ..., H, W) as (N, C1 C2 ..., H, W) with its channels innermost, by one copy: channel shuffles."""
        old = source.view.shape
        count = len(old) - 3
        if count < 2 or old[0] != shape[0] or old[-2:] != shape[2:]:
            return None
        order = (0, len(old) - 2, len(old) - 1, *range(1, 1 + count))
        return self._copied(source, order, "joined").reshaped(shape)

    def _lower_concat(self, node: Node, op: Concat) -> None:
        shape = self.graph.shapes[node.output]
        rank4 = op.axis == 1 and len(shape) == 4
        order = channels_last(4) if rank4 else self._storage(node.inputs[0]).view.order
        y = self._allocate(node.output, order)
        self.storages[node.output] = y
        at = 0
        for name in node.inputs:
            source = self._storage(name)
            size = source.view.shape[op.axis]
            target = Storage(
                y.root, y.offset + at * y.view.strides[op.axis], TensorView(source.view.shape, y.view.strides)
            )
            at += size
            if (source.root, source.offset) != (target.root, target.offset) and source.view.elems:
                self.result.layers.append(Layer(f"{node.name}:{name}", Copy(), [source], [target]))

    def _lower_operator(self, node: Node) -> None:
        op = node.op
        inputs = [self._storage(name) for name in node.inputs]
        if isinstance(op, Conv | Pool | AdaptivePool | Resize | LocalResponseNorm | GroupNorm | BatchNorm):
            if len(inputs[0].view.shape) == 4:
                inputs[0] = self._channels_last(inputs[0])
        elif isinstance(op, LayerNorm | MatMul):
            count = 2 if isinstance(op, MatMul) else 1
            inputs[:count] = [
                source if source.view.strides[-1] == 1 and isinstance(op, LayerNorm) else self._dense(source)
                for source in inputs[:count]
            ]
        outputs = []
        for name in node.outputs:
            self.storages[name] = self._allocate(name, self._output_order(op, inputs, self.graph.shapes[name]))
            outputs.append(self.storages[name])
        self.result.layers.append(Layer(node.name, op, inputs, outputs))

    def _output_order(self, op: Op, inputs: list[Storage], shape: tuple[int, ...]) -> tuple[int, ...]:
        """The layout in which an operator writes: that of the input that it follows element by element."""
        rank = len(shape)
        rows = tuple(range(rank))
        if isinstance(op, Unary | Binary | PRelu | Pad | Slice | Expand | Reduce | LayerNorm) or len(inputs) == 1:
            alike = [s for s in inputs if len(s.view.shape) == rank]
            alike.sort(key=lambda s: (s.root in self.result.constants, -s.view.elems))
            return alike[0].view.order if alike else rows
        return channels_last(4) if rank == 4 and not isinstance(op, MatMul) else rows

    # ---- outputs ------------------------------------------------------------------------------------------------
    def _deliver(self, name: str, index: int) -> None:
        """The result in the caller's array: written there by its last step where that alone fills it, else copied."""
        source = self._storage(name)
        result = self.result
        wanted = self.layouts.edge(self.graph.shapes[name])
        owned = source.root not in result.inputs | result.constants | result.outputs
        whole = source.offset == 0 and result.root_elems[source.root] == wanted.elems
        if owned and whole and source.view.has_places_of(wanted):
            result.outputs[source.root] = index
            return
        root = f"output:{name}:{index}"
        target = self._new(root, wanted.shape, wanted.order)
        result.outputs[root] = index
        result.layers.append(Layer(root, Copy(), [source], [target]))


def _is_first_layer(spec: ConvSpec) -> bool:
    return (
        spec.c < min(PAD_BELOW_CHANNELS, MERGE_BELOW_CHANNELS)
        and spec.groups == 1
        and spec.s > 1
        and spec.dilation[1] == 1
        and spec.upsample == (1, 1)
        and min(spec.pad) >= 0
    )


__all__ = ["Copy", "Fused", "Layer", "Layouts", "Lowered", "lower"]
