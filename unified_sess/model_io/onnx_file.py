"""ONNX files of anybody: what they are and hold is checked before onnxruntime sees them.

An ONNX file is a protobuf message, a list of numbered fields of which some are messages again. Walking through it takes
a few milliseconds, no other package and no more memory than the file. onnxruntime would also follow paths to files
outside, run loops without end, and take any of hundreds of operators; networks of `unified-sess export` need none of it.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from unified_sess.model_io.model_folder import ModelConfig, check_sample_rate, checked_numbers, checked_options
from unified_sess.utils.errors import UserError

INPUT, OUTPUTS = "mixture", ("sources", "enhanced")
OPSET = 17
LARGEST_ONNX = 500_000_000  # bytes; the file of the model that ships has 7 million
EXPORT = "give an ONNX file of unified-sess export"
MOST_NODES = 50_000  # of the model that ships: 3,700
LARGEST_SETTING = 100  # characters of a value in the metadata
# All computing that a network of ours may do: each of these takes tensors and gives tensors, and none runs a graph of its own.
OPERATORS = frozenset(
    """Abs Add BatchNormalization Cast Clip Concat Constant ConstantOfShape Conv ConvTranspose Cos CumSum Div Einsum Equal Erf
    Exp Expand Flatten GRU Gather Gemm GlobalAveragePool Greater Identity InstanceNormalization LSTM LayerNormalization
    Less Log MatMul Max Min Mod Mul Neg Not PRelu Pad Pow Range Reciprocal ReduceMax ReduceMean ReduceSum Relu Reshape
    Shape Sigmoid Sin Slice Softmax Softplus Split Sqrt Squeeze Sub Tanh Tile Transpose Unsqueeze Where""".split()
)
LOOPS = frozenset(("Loop", "Scan"))  # what may run without end, in files of anybody

# Numbers of fields, from onnx.proto.
MODEL_GRAPH, MODEL_OPSET, MODEL_METADATA, MODEL_TRAINING, MODEL_FUNCTIONS = 7, 8, 14, 20, 25
GRAPH_NODE, GRAPH_WEIGHTS, GRAPH_SPARSE_WEIGHTS = 1, 5, 15
NODE_OPERATOR, NODE_ATTRIBUTE, NODE_DOMAIN = 4, 5, 7
ATTRIBUTE_TENSOR, ATTRIBUTE_TENSORS = 5, 10
ATTRIBUTE_GRAPHS = (6, 11)
ATTRIBUTE_OTHERS = (14, 15, 22, 23)  # types and sparse tensors
TENSOR_EXTERNAL, TENSOR_LOCATION = 13, 14
KEY, VALUE = 1, 2  # of metadata; domain and version of an operator set


class OnnxFile(NamedTuple):
    """A file that was checked: its bytes, and what it says of its model (`ModelConfig` without modules)."""

    data: bytes
    config: ModelConfig


class _Refused(Exception):
    """Why a file is refused, to be read behind its name."""


def read_onnx(path: str | Path) -> OnnxFile:
    """Read and check an ONNX file that `unified-sess export` wrote.

    Raises
    ------
    UserError
        In one line, when the file is missing, too large, corrupt, no ONNX file, not ours, or holds what no network of
        ours needs: weights outside of the file, graphs in graphs, functions, operators beyond `OPERATORS`.
    """
    return check_onnx_file(read_bytes(path, EXPORT), path)


def read_bytes(path: str | Path, advice: str) -> bytes:
    """The first `LARGEST_ONNX` + 1 bytes of a file; `UserError` that ends with `advice` where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(LARGEST_ONNX + 1)
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}): {advice}") from None


def check_onnx_file(data: bytes, where: str | Path) -> OnnxFile:
    """Check the bytes of an ONNX file; `UserError` as of `read_onnx`, naming `where`."""
    said = _walked(data, where, EXPORT, ours=True)
    if said.get("format") != "unified_sess":
        raise UserError(
            f"{where} is not ours (its metadata name no model of unified_sess): make one with unified-sess export"
        )
    if said.get("format_version") != "1":
        raise UserError(f"{where} has format_version {said.get('format_version')!r}: this version reads 1")
    settings = {key: value if key == "enhanced_from" else _number(value) for key, value in said.items()}
    speakers, rate = checked_numbers(settings, where)
    check_sample_rate(rate, where)
    return OnnxFile(data, ModelConfig({}, speakers, rate, *checked_options(settings, where)))


def check_foreign_file(data: bytes, where: str | Path, advice: str) -> None:
    """Check the bytes of an ONNX file that others made, of any operators and sizes.

    Raises
    ------
    UserError
        In one line that names `where` and ends with `advice`, when the file is too large, corrupt or no ONNX file, keeps
        weights outside of it, or holds functions or loops.
    """
    _walked(data, where, advice, ours=False)


def _walked(data, where, advice, ours):
    """The metadata of a file, after everything in it was looked at."""
    if len(data) > LARGEST_ONNX:
        raise UserError(f"{where} is larger than {LARGEST_ONNX / 1e6:.0f} MB, which no network here needs: {advice}")
    try:
        return _check_model(memoryview(data), ours)
    except _Refused as refused:
        raise UserError(f"{where} {refused}: {advice}") from None
    except (ValueError, TypeError, IndexError, AttributeError, RecursionError):  # the walk met what no field can be
        raise UserError(f"{where} is no ONNX file, or a corrupt one: {advice}") from None


def _number(text):
    try:
        return json.loads(text)
    except ValueError:
        return text


def _check_model(message, ours):
    """The metadata of a model; raises `_Refused` or `ValueError`."""
    said, graphs = {}, 0
    for number, value in _fields(message):
        if number == MODEL_GRAPH:
            graphs += 1
            _check_graph(value, ours)
        elif number == MODEL_METADATA:
            entry = {key: text for key, text in _fields(value) if len(text) <= LARGEST_SETTING}
            if KEY in entry and VALUE in entry:
                said[_text(entry[KEY])] = _text(entry[VALUE])
        elif number == MODEL_OPSET and ours:
            _check_operator_set(dict(_fields(value)))
        elif number in (MODEL_TRAINING, MODEL_FUNCTIONS):
            raise _Refused("holds functions, which no network here needs")
    if graphs != 1:
        raise ValueError
    return said


def _check_operator_set(entry):
    if len(entry.get(KEY, b"")) or entry.get(VALUE) != OPSET:
        raise _Refused(f"wants other operators than ONNX's of opset {OPSET}")


def _check_graph(message, ours):
    nodes = 0
    for number, value in _fields(message):
        if number == GRAPH_NODE:
            nodes += 1
            if nodes > MOST_NODES:
                raise _Refused(f"has more than {MOST_NODES} operators, which no network here needs")
            _check_node(value, ours)
        elif number == GRAPH_WEIGHTS:
            _check_tensor(value)
        elif number == GRAPH_SPARSE_WEIGHTS:
            raise _Refused("holds sparse weights, which no network here needs")


def _check_node(message, ours):
    operator, domain = "", ""
    for number, value in _fields(message):
        if number == NODE_OPERATOR:
            operator = _text(value)
        elif number == NODE_DOMAIN:
            domain = _text(value)
        elif number == NODE_ATTRIBUTE:
            for kind, content in _fields(value):
                if kind in (ATTRIBUTE_TENSOR, ATTRIBUTE_TENSORS):
                    _check_tensor(content)
                elif kind in ATTRIBUTE_GRAPHS and not ours:
                    _check_graph(content, ours)
                elif kind in ATTRIBUTE_GRAPHS:
                    raise _Refused("holds a graph in its graph, which no network of ours has")
                elif kind in ATTRIBUTE_OTHERS:
                    raise _Refused("holds types or sparse tensors in an operator, which no network here needs")
    if operator in LOOPS or ours and (domain or operator not in OPERATORS):
        name = ".".join(part[:40] for part in (domain, operator) if part)
        raise _Refused(f"uses the operator {name!r}, which no network here needs")


def _check_tensor(message):
    for number, value in _fields(message):
        if number == TENSOR_EXTERNAL or (number == TENSOR_LOCATION and value != 0):
            raise _Refused("keeps weights outside of the file, which is not allowed")


def _text(content: memoryview) -> str:
    return content.tobytes().decode()


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """Yields number and content of each field of a protobuf message; ValueError where it is none."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position, 5)
        if tag >= 2**32:  # of which readers keep 32 bits: it would be another field to them
            raise ValueError
        kind = tag & 7
        if kind == 0:
            value, position = _varint(message, position, 10)
            yield tag >> 3, value
            continue
        if kind not in (1, 2, 5):
            raise ValueError
        size = {1: 8, 5: 4}.get(kind, 0)
        if kind == 2:
            size, position = _varint(message, position, 5)
        if size > len(message) - position:
            raise ValueError
        yield tag >> 3, message[position : position + size]
        position += size


def _varint(message, position, longest):
    """A number of up to `longest` bytes, 7 bits each, and the position behind it."""
    number = message[position]
    if number < 128:
        return number, position + 1
    number = 0
    for k, byte in enumerate(message[position : position + longest]):
        number |= (byte & 127) << (7 * k)
        if byte < 128:
            return number, position + k + 1
    raise ValueError
