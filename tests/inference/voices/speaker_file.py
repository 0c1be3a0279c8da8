"""A speaker network that nobody trained: how much every band of the features varies."""

import numpy as np

from unified_sess.inference.voices.speakers import BANDS


def speaker_file(path, inputs=(("feats", ("batch", "frames", BANDS)),), gives="variance"):
    """Writes an ONNX file: the mean square of its first input over time, `[batch, 80]`; or what no speaker network gives."""
    from onnx import TensorProto
    from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_sequence_value_info
    from onnx.helper import make_tensor_value_info as value

    name = inputs[0][0]
    nodes = [
        make_node("Mul", [name, name], ["square"]),
        make_node("ReduceMean", ["square"], ["embs"], axes=[1], keepdims=0),
    ]
    outputs = [value("embs", TensorProto.FLOAT, None)]
    if gives == "nothing":
        outputs = []
    elif gives == "features":
        nodes = [make_node("Identity", [name], ["embs"])]
    elif gives == "sequence":
        nodes = [make_node("SequenceConstruct", [name], ["embs"])]
        outputs = [make_tensor_sequence_value_info("embs", TensorProto.FLOAT, None)]
    elif gives in ("zeros", "NaN", "one direction"):  # times 0, the root of less than 0, no feature at all
        scale = [make_node("Sub", ["embs", "embs"], ["none"])]
        last = {"zeros": ("Abs", "none"), "NaN": ("Sqrt", "less"), "one direction": ("Exp", "none")}[gives]
        more = [make_node("Neg", ["embs"], ["less"])] if gives == "NaN" else []
        nodes += [*scale, *more, make_node(last[0], [last[1]], ["last"])]
        outputs = [value("last", TensorProto.FLOAT, None)]
    elif gives == "half precision":
        nodes.append(make_node("Cast", ["embs"], ["half"], to=TensorProto.FLOAT16))
        outputs = [value("half", TensorProto.FLOAT16, None)]
    elif gives == "integers":
        nodes.append(make_node("Cast", ["embs"], ["whole"], to=TensorProto.INT64))
        outputs = [value("whole", TensorProto.INT64, None)]
    graph = make_graph(
        nodes, "network", [value(each, TensorProto.FLOAT, list(shape)) for each, shape in inputs], outputs
    )
    path.write_bytes(make_model(graph, opset_imports=[make_opsetid("", 13)], ir_version=8).SerializeToString())
    return path


def buzz(low, high, seconds, rate, seed=0):
    """Noise between two frequencies in Hz that swells four times a second, `[time]`, float32."""
    spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal(round(seconds * rate)))
    frequencies = np.fft.rfftfreq(round(seconds * rate), 1 / rate)
    spectrum[(frequencies < low) | (frequencies > high)] = 0
    noise = np.fft.irfft(spectrum, round(seconds * rate))
    swell = 0.51 + 0.49 * np.sin(2 * np.pi * 4 * np.arange(len(noise)) / rate)
    return (0.05 * swell * noise / noise.std()).astype(np.float32)
