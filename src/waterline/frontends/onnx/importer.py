"""`Importer`: walks the nodes of an ONNX graph and builds a `Graph` with whole-number shapes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import onnx

from waterline.errors import Error, InvalidModel, UnsupportedOperator
from waterline.frontends.onnx.attributes import Attributes
from waterline.frontends.onnx.builder import Builder
from waterline.frontends.onnx.call import Call
from waterline.frontends.onnx.model import Model, opset_versions
from waterline.frontends.onnx.names import DEEPEST_NESTING, UNORDERED, check_names
from waterline.frontends.onnx.signature import TensorInfo
from waterline.frontends.onnx.storage import decode, one_line
from waterline.frontends.onnx.table import CONVERTERS
from waterline.frontends.onnx.values import Constant, Missing, RefusalError, Tensor, Value
from waterline.graph import Graph
from waterline.graph.ops import Shape

MOST_NODES = 100_000
ABSENT = Missing("it is an input of a function that its call leaves out")

# What NumPy, protobuf and Python raise for numbers and names that make no sense.
MISTAKES = (ArithmeticError, LookupError, MemoryError, RecursionError, TypeError, ValueError)


@dataclass
class Scope:
    """The names that a list of nodes may use.

    Attributes:
        prefix: of the names of nodes, inside a function.
        opsets: domain -> version.
        bound: inside a function, the attributes of the call.
        outer: the scope around a branch of an `If`.
    """

    opsets: Mapping[str, int]
    prefix: str = ""
    bound: Mapping[str, onnx.AttributeProto] | None = None
    outer: Scope | None = None
    depth: int = 0
    values: dict[str, Value] = field(default_factory=dict)

    def find(self, name: str) -> Value | None:
        scope: Scope | None = self
        while scope is not None:
            if name in scope.values:
                return scope.values[name]
            scope = scope.outer
        return None

    def define(self, name: str, value: Value) -> None:
        if name in self.values:
            raise InvalidModel(f"two nodes, inputs or initializers write {name!r}")
        self.values[name] = value


class Importer:
    """One import of a model for one set of input shapes."""

    def __init__(self, model: Model, shapes: Mapping[str, Shape]) -> None:
        self.model = model
        self.shapes = shapes
        self.builder = Builder()
        self.refusals: dict[tuple[str, str], list[str]] = {}  # (operator, reason) -> nodes
        self.functions = {(f.domain, f.name, f.overload): f for f in model.proto.functions}
        self.count = 0

    def run(self) -> Graph:
        """Raises InvalidModel, InvalidArgument, or one UnsupportedOperator that names everything that is refused."""
        graph = self.model.proto.graph
        signature = self.model.signature
        scope = Scope(self.model.opsets)
        inputs = []
        for info in signature.inputs:
            tensor = Tensor(info.name, self.shapes[info.name], info.dtype, is_input=True)
            inputs.append(tensor)
            scope.define(info.name, tensor)
        for sparse in graph.sparse_initializer:
            scope.define(sparse.values.name, Missing(f"the initializer {sparse.values.name!r} is sparse"))
        needed = check_names(graph.node, {*scope.values, *self.model.positions})
        missing = [info.name for info in signature.outputs if info.name not in needed.known]
        if missing:
            raise InvalidModel(f"the output {missing[0]!r} is written by no node")
        self.walk(graph.node, scope, needed.live({info.name for info in signature.outputs}))
        outputs = [(info.name, self.output(info, scope)) for info in signature.outputs]
        if self.refusals:
            raise self.report()
        return self.builder.finish(graph.name or "onnx", inputs, outputs)

    # ---- walking ------------------------------------------------------------------------------------------------
    def walk(self, nodes: Iterable[onnx.NodeProto], scope: Scope, live: set[int] | None = None) -> None:
        """Convert nodes in order; `live` are the positions of those to convert (None: all)."""
        if scope.depth > DEEPEST_NESTING:
            raise InvalidModel(f"functions are nested more than {DEEPEST_NESTING} deep", "do they call each other?")
        for position, node in enumerate(nodes):
            if live is not None and position not in live:
                continue
            self.count += 1
            if self.count > MOST_NODES:
                raise InvalidModel(f"the model has more than {MOST_NODES} nodes once its functions are expanded")
            results = self.convert(node, f"{scope.prefix}{node.name or f'{node.op_type}_{position}'}", scope)
            for name, value in zip(node.output, results, strict=True):
                if name:
                    scope.define(name, value)

    def convert(self, node: onnx.NodeProto, label: str, scope: Scope) -> list[Value]:
        """The values of a node's outputs; Missing ones where it is refused."""
        domain = "" if node.domain == "ai.onnx" else node.domain
        kind = f"{domain}::{node.op_type}" if domain else node.op_type
        try:
            function = self.functions.get((node.domain, node.op_type, node.overload))
            if function is None and kind != "If" and kind not in CONVERTERS:
                raise RefusalError()
            inputs = [self.operand(name, scope) for name in node.input]
            attributes = Attributes(node.attribute, scope.bound)
            if function is not None:
                return self.call_function(function, node, label, inputs, attributes, scope)
            if kind == "If":
                return self.take_branch(node, label, inputs, attributes, scope)
            return self.call_converter(kind, node, label, inputs, attributes, scope)
        except RefusalError as refusal:
            self.refuse(kind, label, refusal.reason)
            return [Missing()] * len(node.output)
        except Error as error:
            if error.message.startswith("node "):  # from inside a function or branch, where it was given its place
                raise
            raise type(error)(f"node {label!r} ({kind}): {error.message}", error.hint) from error
        except MISTAKES as error:
            raise InvalidModel(f"node {label!r} ({kind}): {one_line(error)}") from error

    def call_converter(
        self,
        kind: str,
        node: onnx.NodeProto,
        label: str,
        inputs: list[Value | None],
        attributes: Attributes,
        scope: Scope,
    ) -> list[Value]:
        if "" not in scope.opsets:
            raise InvalidModel("the model does not say which opset of the standard operators it uses")
        self.builder.label = label
        before = len(self.builder.steps)
        call = Call(kind, scope.opsets[""], attributes, inputs, node.output, self.builder, self.model.path)
        result = CONVERTERS[kind](call)
        results = [result] if isinstance(result, (Constant, Tensor, Missing)) else list(result)
        results = results[: len(node.output)]
        results += [Missing(f"nothing computes output {i} of {label!r}") for i in range(len(results), len(node.output))]
        fresh = {id(step.output) for step in self.builder.steps[before:]}
        for name, value in zip(node.output, results, strict=True):
            is_new = id(value) in fresh or (isinstance(value, Constant) and not value.name)
            if name and is_new and not isinstance(value, Missing):
                value.name = scope.prefix + name
        return results

    def call_function(
        self,
        function: onnx.FunctionProto,
        node: onnx.NodeProto,
        label: str,
        inputs: list[Value | None],
        attributes: Attributes,
        scope: Scope,
    ) -> list[Value]:
        """Expand a model-local function in place."""
        if len(inputs) > len(function.input) or len(node.output) > len(function.output):
            raise InvalidModel(f"the function has {len(function.input)} inputs and {len(function.output)} outputs")
        bound = {proto.name: proto for proto in function.attribute_proto} | attributes.protos
        opsets = {**scope.opsets, **opset_versions(function.opset_import)}
        inner = Scope(opsets, f"{label}/", bound, depth=scope.depth + 1)
        for position, name in enumerate(function.input):
            value = inputs[position] if position < len(inputs) else None
            inner.define(name, ABSENT if value is None else value)
        needed = check_names(function.node, set(inner.values))
        outputs = list(zip(function.output, node.output, strict=False))
        self.walk(function.node, inner, needed.live({name for name, wanted in outputs if wanted}))
        return [self.lookup(name, inner) if wanted else Missing() for name, wanted in outputs]

    def take_branch(
        self, node: onnx.NodeProto, label: str, inputs: list[Value | None], attributes: Attributes, scope: Scope
    ) -> list[Value]:
        """An `If` whose condition is known is the branch that it takes."""
        condition = inputs[0] if inputs else None
        if isinstance(condition, Missing):
            raise RefusalError(condition.reason)
        if not isinstance(condition, Constant) or condition.array.size != 1:
            raise RefusalError("its condition is computed at run time")
        branch = attributes.graph("then_branch" if condition.array.reshape(-1)[0] else "else_branch")
        if branch is None or len(branch.output) < len(node.output):
            raise InvalidModel("a branch is missing, or has too few outputs")
        inner = Scope(scope.opsets, f"{label}/", scope.bound, scope, scope.depth + 1)
        for tensor in branch.initializer:
            array = decode(tensor, None, self.model.path, f"initializer {tensor.name!r}")
            inner.define(tensor.name, Constant(array, tensor.name))
        self.walk(branch.node, inner)
        return [self.lookup(info.name, inner) for info in branch.output[: len(node.output)]]

    def operand(self, name: str, scope: Scope) -> Value | None:
        """The value of an input; None if it is left out, here or in the call of the function around the node."""
        value = self.lookup(name, scope) if name else None
        return None if value is ABSENT else value

    def lookup(self, name: str, scope: Scope) -> Value:
        """What a name stands for. Initializers of the model are read when they are first looked up."""
        value = scope.find(name)
        if value is not None:
            return value
        if name in self.model.positions and scope.bound is None:
            try:
                value = Constant(self.model.initializer(name), name)
                self.builder.budget.grant(value.array.nbytes)
            except RefusalError as refusal:
                value = Missing(refusal.reason)
            root = scope
            while root.outer is not None:
                root = root.outer
            root.values[name] = value
            return value
        raise InvalidModel(f"it reads {name!r}, which nothing before it writes", UNORDERED)

    # ---- refusals -----------------------------------------------------------------------------------------------
    def refuse(self, kind: str, label: str, reason: str | None) -> None:
        if reason is not None:
            self.refusals.setdefault((kind, reason), []).append(label)

    def output(self, info: TensorInfo, scope: Scope) -> Value:
        """The value of an output of the model, refused if it is not float32."""
        value = self.lookup(info.name, scope)
        if isinstance(value, Missing):
            self.refuse("output", info.name, value.reason)
            return value
        dtype = value.dtype if isinstance(value, Tensor) else str(value.array.dtype)
        if dtype != "float32":
            self.refuse("output", info.name, f"it is {dtype}, and float32 is computed")
        return value

    def report(self) -> UnsupportedOperator:
        parts = []
        for (kind, reason), labels in self.refusals.items():
            named = ", ".join(map(repr, labels))
            place = named if kind == "output" else f"{'node' if len(labels) == 1 else 'nodes'} {named}"
            parts.append(f"{kind} ({place}{': ' + reason if reason else ''})")
        return UnsupportedOperator(
            f"the model uses what is not supported: {'; '.join(parts)}",
            "waterline.frontends.onnx.operators() lists the operators that are",
        )
