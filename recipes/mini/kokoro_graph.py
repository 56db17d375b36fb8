"""Kokoro's graph, made fit for a CPU with bfloat16 matrix units.

The packaged graph holds 8-bit weights and quantizes every activation as it goes. Its arithmetic is as slow as float32,
and its 48 periodic activations take a third of the time. With float weights and sin(y)**2 as a polynomial, OpenVINO
runs it in bfloat16 3 to 4 times as fast as onnxruntime runs the packaged one.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np


def with_float_weights(model: Any) -> Any:
    """Replace what dynamic quantization put around convolutions, matrix products and LSTMs, in place.

    ``DynamicQuantizeLinear -> ConvInteger|MatMulInteger (-> Add of the bias) -> Cast -> Mul`` becomes one Conv or
    MatMul of the input as it is with the weights as they are stored.

    Args:
        model: an ``onnx.ModelProto``; it is returned.

    Raises:
        ValueError: the graph is not built like that.
    """
    from onnx import helper, numpy_helper

    graph = model.graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    maker = {name: node for node in graph.node for name in node.output}
    users = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            users[name].append(node)
    added: dict[str, np.ndarray] = {}

    def value(name: str) -> np.ndarray:
        return numpy_helper.to_array(stored[name]).astype(np.float32)

    def only_user(name: str, *types: str) -> Any:
        (node,) = users[name]
        if node.op_type not in types:
            raise ValueError(f"{name} goes to {node.op_type}, not to {' or '.join(types)}")
        return node

    def plain(node: Any) -> Any:
        following = only_user(node.output[0], "Add", "Cast")
        bias = []
        if following.op_type == "Add":
            source = next(maker[i] for i in following.input if i != node.output[0])
            while source.op_type != "Div":  # of the bias by the scale of the sum
                source = maker[source.input[0]]
            bias = [source.input[0]]
            following = only_user(following.output[0], "Cast")
        scaled = only_user(following.output[0], "Mul")
        scales = maker[next(i for i in scaled.input if i != following.output[0])]
        scale = value(next(i for i in scales.input if i in stored)).reshape(-1)
        zero = value(node.input[3]).reshape(-1) if len(node.input) > 3 else np.zeros(1, np.float32)
        weight = value(node.input[1])
        conv = node.op_type == "ConvInteger"
        shape = (-1,) + (1,) * (weight.ndim - 1) if conv else (-1,)
        name = f"{node.input[1]}_float"
        added[name] = (weight - zero.reshape(shape)) * scale.reshape(shape)
        inputs = [maker[node.input[0]].input[0], name, *bias]
        made = helper.make_node("Conv" if conv else "MatMul", inputs, [scaled.output[0]], name=node.name)
        made.attribute.extend(node.attribute)
        return made

    def lstm(node: Any) -> Any:
        names = list(node.input)
        if any(names[12:]) or {a.name for a in node.attribute} - {"direction", "hidden_size", "input_forget"}:
            raise ValueError(f"{node.name} is more than a plain LSTM")
        for which, scale, zero in ((1, 8, 9), (2, 10, 11)):
            weight, steps, zeros = (value(names[i]) for i in (which, scale, zero))
            steps, zeros = (a.reshape(a.shape[0], 1, -1) for a in (steps, zeros))  # (directions, in, 4 H)
            added[f"{names[which]}_float"] = ((weight - zeros) * steps).transpose(0, 2, 1)
        inputs = [names[0], f"{names[1]}_float", f"{names[2]}_float", *names[3:7]]
        made = helper.make_node("LSTM", inputs, list(node.output), name=node.name)
        made.attribute.extend(a for a in node.attribute if a.name in ("direction", "hidden_size"))
        return made

    makers = {"ConvInteger": plain, "MatMulInteger": plain, "DynamicQuantizeLSTM": lstm}
    new = {node.name: makers[node.op_type](node) for node in graph.node if node.op_type in makers}
    written = {name for node in new.values() for name in node.output}
    nodes = [
        new.get(node.name, node)
        for node in graph.node
        if node.name in new or not written.intersection(node.output)
    ]
    graph.initializer.extend(
        numpy_helper.from_array(np.ascontiguousarray(array, np.float32), name)
        for name, array in added.items()
    )
    _replace_nodes(graph, nodes)
    return model


def with_cheap_sines(model: Any) -> Any:
    """Replace sin(y)**2 of the decoder's activations by a polynomial in the distance to the nearest multiple of pi.

    Off by at most 7e-5. The sines that make the pitch are left alone. In place; the model is returned.
    """
    from onnx import helper, numpy_helper

    graph = model.graph
    distance = np.linspace(-0.5, 0.5, 4001)
    powers = np.stack([distance ** (2 * n) for n in range(1, 5)], 1)
    coefficients = np.linalg.lstsq(powers, np.sin(np.pi * distance) ** 2, rcond=None)[0]
    constants = {"1/pi": 1 / np.pi, "half": 0.5} | {f"c{n}": c for n, c in enumerate(coefficients)}
    graph.initializer.extend(
        numpy_helper.from_array(np.float32(v), f"sine_{name}") for name, v in constants.items()
    )
    users = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            users[name].append(node)
    exponents = {t.name: float(numpy_helper.to_array(t)) for t in graph.initializer if not any(t.dims)}
    exponents |= {
        node.output[0]: float(numpy_helper.to_array(node.attribute[0].t))
        for node in graph.node
        if node.op_type == "Constant" and not any(node.attribute[0].t.dims)
    }
    nodes, gone = [], set()
    for node in graph.node:
        if node.name in gone:
            continue
        squares = users[node.output[0]] if node.op_type == "Sin" else []
        square = len(squares) == 1 and squares[0].op_type == "Pow" and exponents.get(squares[0].input[1]) == 2
        if not square or "res" not in node.name:
            nodes.append(node)
            continue

        def put(kind: str, inputs: list[str], name: str, stem: str = node.name) -> str:
            nodes.append(helper.make_node(kind, inputs, [f"{stem}_{name}"], name=f"{stem}_{name}"))
            return f"{stem}_{name}"

        turns = put("Mul", [node.input[0], "sine_1/pi"], "turns")
        nearest = put("Floor", [put("Add", [turns, "sine_half"], "above")], "nearest")
        apart = put("Sub", [turns, nearest], "apart")
        power = put("Mul", [apart, apart], "square")
        total = put("Mul", [power, "sine_c3"], "p3")
        for n in (2, 1, 0):
            total = put("Mul", [put("Add", [total, f"sine_c{n}"], f"s{n}"), power], f"p{n}")
        nodes[-1].output[0] = squares[0].output[0]
        gone.add(squares[0].name)
    _replace_nodes(graph, nodes)
    return model


def _replace_nodes(graph: Any, nodes: list[Any]) -> None:
    """Keep these nodes, as far as anything comes of them, and the tensors that they read."""
    outputs = {output.name for output in graph.output}
    while True:
        read = outputs | {name for node in nodes for name in node.input}
        live = [node for node in nodes if read.intersection(node.output)]
        if len(live) == len(nodes):
            break
        nodes = live
    tensors = [tensor for tensor in graph.initializer if tensor.name in read]
    # copied first: emptying the list frees what it holds
    nodes, tensors = [_copy(node) for node in nodes], [_copy(tensor) for tensor in tensors]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(tensors)


def _copy(message: Any) -> Any:
    made = type(message)()
    made.CopyFrom(message)
    return made
