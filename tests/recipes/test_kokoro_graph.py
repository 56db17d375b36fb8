"""The rewriting of a dynamically quantized graph, on a small one that onnxruntime's own quantizer wrote."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnxruntime.quantization import QuantType, quantize_dynamic  # noqa: E402

from recipes.mini.kokoro_graph import with_cheap_sines, with_float_weights  # noqa: E402

STEPS, INSIDE, HIDDEN = 20, 6, 5


@pytest.fixture(scope="module")
def graphs(tmp_path_factory):
    """A convolution, a periodic activation, a matrix product and an LSTM: as floats, and quantized."""
    rng = np.random.default_rng(0)

    def tensor(name, *shape):
        return numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)

    weights = [
        tensor("w", INSIDE, INSIDE, 3),
        tensor("b", INSIDE),
        tensor("m", INSIDE, INSIDE),
        tensor("lw", 2, 4 * HIDDEN, INSIDE),
        tensor("lr", 2, 4 * HIDDEN, HIDDEN),
        tensor("lb", 2, 8 * HIDDEN),
        numpy_helper.from_array(np.float32(2), "two"),
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], name="conv", pads=[1, 1]),
        helper.make_node("Sin", ["c"], ["s"], name="resblock/Sin"),
        helper.make_node("Pow", ["s", "two"], ["p"], name="resblock/Pow"),
        helper.make_node("Transpose", ["p"], ["t"], name="turn", perm=[2, 0, 1]),
        helper.make_node("MatMul", ["t", "m"], ["d"], name="dense"),
        helper.make_node(
            "LSTM", ["d", "lw", "lr", "lb"], ["y"], name="lstm", direction="bidirectional", hidden_size=HIDDEN
        ),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, INSIDE, STEPS])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [STEPS, 2, 1, HIDDEN])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    folder = tmp_path_factory.mktemp("graphs")
    onnx.save(model, folder / "plain.onnx")
    quantize_dynamic(
        folder / "plain.onnx",
        folder / "small.onnx",
        op_types_to_quantize=["Conv", "MatMul", "LSTM"],
        weight_type=QuantType.QUInt8,
    )
    return model, onnx.load(folder / "small.onnx")


def run(model) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(1).standard_normal((1, INSIDE, STEPS)).astype(np.float32)
    return session.run(None, {"x": x})[0]


def copy(model):
    made = type(model)()
    made.CopyFrom(model)
    return made


def test_float_weights_are_those_that_were_stored(graphs):
    plain, small = graphs
    assert {"ConvInteger", "MatMulInteger", "DynamicQuantizeLSTM"} <= {n.op_type for n in small.graph.node}
    loose = with_float_weights(copy(small))
    kinds = {node.op_type for node in loose.graph.node} - {
        "Add",
        "Reshape",
    }  # this quantizer leaves biases apart
    assert kinds == {"Conv", "Sin", "Pow", "Transpose", "MatMul", "LSTM"}
    # the same graph with rounded weights, which no activation is rounded for
    exact = copy(plain)
    values = {t.name: numpy_helper.to_array(t) for t in loose.graph.initializer}
    names = {"w": "w_quantized_float", "m": "m_quantized_float"}
    for tensor in exact.graph.initializer:
        found = next(
            (v for n, v in values.items() if n in (names.get(tensor.name), f"{tensor.name}_quantized_float")),
            None,
        )
        if found is not None:
            assert np.abs(found - numpy_helper.to_array(tensor)).max() < 0.02
            tensor.CopyFrom(numpy_helper.from_array(found, tensor.name))
    np.testing.assert_allclose(run(loose), run(exact), atol=1e-5)


def test_cheap_sines_are_close_and_others_stay(graphs):
    plain, _ = graphs
    cheap = with_cheap_sines(copy(plain))
    assert not {"Sin", "Pow"} & {node.op_type for node in cheap.graph.node}
    np.testing.assert_allclose(run(cheap), run(plain), atol=2e-3)
    other = copy(plain)
    for node in other.graph.node:
        if node.op_type == "Sin":
            node.name = "pitch/Sin"
    assert "Sin" in {node.op_type for node in with_cheap_sines(other).graph.node}


def test_a_graph_of_another_shape_is_refused(graphs):
    odd = copy(graphs[1])
    for node in odd.graph.node:
        if node.op_type == "Cast":
            node.op_type = "Identity"
            del node.attribute[:]
    with pytest.raises(ValueError, match="goes to Identity"):
        with_float_weights(odd)
