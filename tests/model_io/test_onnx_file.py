"""ONNX files of anybody are refused in one line, before onnxruntime sees them."""

import numpy as np
import pytest

from unified_sess.model_io import onnx_file
from unified_sess.model_io.onnx_file import INPUT, OPERATORS, OUTPUTS, check_foreign_file, check_onnx_file, read_onnx
from unified_sess.utils.errors import UserError

onnx = pytest.importorskip("onnx")
FLOAT = onnx.TensorProto.FLOAT
SAID = {"format": "unified_sess", "format_version": "1", "num_spks": "2", "sample_rate": "8000"}


def model(*nodes, weights=(), said=SAID, opsets=(("", 17),), **parts):
    """A file with nodes; it need not compute anything."""
    mixture = onnx.helper.make_tensor_value_info(INPUT, FLOAT, ["batch", "time"])
    outputs = [onnx.helper.make_tensor_value_info(name, FLOAT, None) for name in OUTPUTS]
    graph = onnx.helper.make_graph(list(nodes), "network", [mixture], outputs, list(weights))
    made = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid(*opset) for opset in opsets], **parts)
    onnx.helper.set_model_props(made, dict(said))
    return made


def identity(name=INPUT):
    return onnx.helper.make_node("Identity", [name], [OUTPUTS[0]])


def refused(data, why):
    data = data if isinstance(data, bytes) else data.SerializeToString()
    with pytest.raises(UserError, match=why) as error:
        check_onnx_file(data, "it")
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


def outside(location="../../etc/passwd"):
    tensor = onnx.TensorProto(name="w", dims=[4], data_type=FLOAT, data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    return tensor


def test_what_is_ours_is_read(tmp_path):
    made = model(identity(), weights=[onnx.numpy_helper.from_array(np.zeros(1000, "f4"), "w")])
    path = tmp_path / "a.onnx"
    path.write_bytes(made.SerializeToString())
    config = read_onnx(path).config
    assert (config.num_spks, config.sample_rate, config.silence_threshold) == (2, 8000, None)


@pytest.mark.parametrize("location", ["../../etc/passwd", "/etc/passwd", "weights.bin", "*/_ORT_MEM_ADDR_/*"])
def test_weights_outside_of_the_file(location):
    refused(model(identity("w"), weights=[outside(location)]), "keeps weights outside")
    constant = onnx.helper.make_node("Constant", [], ["w"])
    constant.attribute.add(name="value", type=onnx.AttributeProto.TENSOR).t.CopyFrom(outside(location))
    refused(model(constant, identity("w")), "keeps weights outside")


def test_a_field_that_is_another_one_in_32_bits():
    """Field numbers with a bit that readers drop hid weights outside, which onnxruntime then read, and loops."""

    def field(tag, content, hidden=False):
        head = bytes([tag | 0x80, 0x80, 0x80, 0x80, 0x10]) if hidden else bytes([tag])
        size = len(content)
        return head + (bytes([size]) if size < 128 else bytes([size & 127 | 128, size >> 7])) + content

    tensor = onnx.TensorProto(name="w", dims=[4], data_type=FLOAT).SerializeToString()
    place = onnx.StringStringEntryProto(key="location", value="weights.bin").SerializeToString()
    external = field(13 << 3 | 2, place, hidden=True) + bytes([14 << 3 | 0x80, 0x80, 0x80, 0x80, 0x10, 1])
    made = model(identity("w"))
    graph = made.graph.SerializeToString() + field(5 << 3 | 2, tensor + external)
    made.ClearField("graph")
    refused(made.SerializeToString() + field(7 << 3 | 2, graph), "no ONNX file")


def test_no_graph_in_the_graph_and_no_function():
    inner = onnx.helper.make_graph([], "inner", [], [])
    for attribute in (inner, [inner]):
        loop = onnx.helper.make_node("Identity", [INPUT], [OUTPUTS[0]], body=attribute)
        refused(model(loop), "holds a graph in its graph")
    function = onnx.helper.make_function("", "F", ["a"], ["b"], [identity("a")], [onnx.helper.make_opsetid("", 17)])
    refused(model(identity(), functions=[function]), "holds functions")


def test_operators_that_no_network_of_ours_uses():
    for operator, domain in (("Loop", ""), ("If", ""), ("Scan", ""), ("FusedConv", "com.microsoft"), ("Add", "evil")):
        assert domain or operator not in OPERATORS
        refused(model(onnx.helper.make_node(operator, [INPUT], ["x"], domain=domain)), f"operator '.*{operator}'")
    refused(model(identity(), opsets=(("", 17), ("com.microsoft", 1))), "other operators than ONNX's of opset 17")
    refused(model(identity(), opsets=(("", 9),)), "opset 17")


def test_files_of_others_may_hold_more_but_nothing_outside_and_no_loop():
    """Any operator, operator set and branch; what lies in a branch is looked at as well."""

    def check(*nodes, **parts):
        check_foreign_file(model(*nodes, said={}, **parts).SerializeToString(), "it", "give another one")

    def branch(*nodes, weights=()):
        inner = onnx.helper.make_graph(list(nodes), "inner", [], [], list(weights))
        return onnx.helper.make_node("If", [INPUT], [OUTPUTS[0]], then_branch=inner)

    loop = onnx.helper.make_node("Loop", [INPUT], ["x"])
    function = onnx.helper.make_function("", "F", ["a"], ["b"], [identity("a")], [onnx.helper.make_opsetid("", 17)])
    check(onnx.helper.make_node("Anything", [INPUT], ["x"], domain="com.microsoft"), opsets=(("", 11),))
    check(branch(branch(identity())))
    for nodes, parts, why in (
        ([identity("w")], {"weights": [outside()]}, "keeps weights outside"),
        ([branch(identity("w"), weights=[outside()])], {}, "keeps weights outside"),
        ([loop], {}, "operator 'Loop'"),
        ([branch(branch(loop))], {}, "operator 'Loop'"),
        ([identity()], {"functions": [function]}, "holds functions"),
    ):
        with pytest.raises(UserError, match=f"^it .*{why}.*: give another one$"):
            check(*nodes, **parts)
    with pytest.raises(UserError, match="^it is no ONNX file, or a corrupt one: give another one$"):
        check_foreign_file(b"RIFF1234WAVEfmt ", "it", "give another one")


@pytest.mark.parametrize("said, why", [
    ({}, "is not ours"),
    ({"format": "other"}, "is not ours"),
    (SAID | {"format_version": "2"}, "format_version '2'"),
    (SAID | {"num_spks": "-1"}, "lacks num_spks"),
    (SAID | {"num_spks": "[" * 90}, "lacks num_spks"),
    (SAID | {"sample_rate": "1e400"}, "lacks num_spks or sample_rate"),
    (SAID | {"sample_rate": "9" * 99}, "has a sample rate of"),
    (SAID | {"silence_threshold": "nan"}, "silence_threshold"),
    (SAID | {"enhanced_from": "x" * 50}, "enhanced_from"),
])  # fmt: skip
def test_metadata_that_cannot_be(said, why):
    refused(model(identity(), said=said), why)


def test_files_that_are_too_large(tmp_path, monkeypatch):
    path = tmp_path / "a.onnx"
    path.write_bytes(model(identity()).SerializeToString())
    monkeypatch.setattr(onnx_file, "LARGEST_ONNX", path.stat().st_size - 1)
    with pytest.raises(UserError, match="is larger than"):
        read_onnx(path)
    monkeypatch.undo()
    monkeypatch.setattr(onnx_file, "MOST_NODES", 1)
    refused(model(identity(), identity()), "more than 1 operators")


def test_two_graphs_are_none():
    """Protobuf joins messages that occur twice, so a reader that looks at one of them would miss the other."""
    refused(2 * model(identity()).SerializeToString(), "no ONNX file, or a corrupt one")


def test_anything_else_is_refused_in_one_line():
    whole = model(
        identity(), weights=[onnx.numpy_helper.from_array(np.arange(50, dtype="f4"), "w")]
    ).SerializeToString()
    for data in (b"", b"RIFF1234WAVEfmt ", b"\xff" * 100, b"\x00" * 50, b"{}", whole[:-5] + b"\xff" * 5):
        refused(data, ".")
    generator = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(whole)
        for position in generator.integers(0, len(whole), generator.integers(1, 6)):
            damaged[position] = generator.integers(256)
        try:
            check_onnx_file(bytes(damaged), "it")
        except UserError as error:
            assert "\n" not in str(error)
    for length in range(0, len(whole), 7):
        refused(whole[:length], ".")
