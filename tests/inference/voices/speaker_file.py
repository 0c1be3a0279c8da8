"""A speaker network that nobody trained: how much every band of the features varies."""

import numpy as np

from unified_sess.inference.voices.speakers import BANDS


def speaker_file(path, inputs=(("feats", ("batch", "frames", BANDS)),), squared=True, **operator):
    """Writes an ONNX file: the mean square of its first input over time, `[batch, 80]`; or, not `squared`, its input."""
    import onnx
    from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info

    name = inputs[0][0]
    nodes = [
        make_node("Mul", [name, name], ["square"]),
        make_node("ReduceMean", ["square"], ["embs"], axes=[1], keepdims=0),
    ]
    if not squared:
        nodes = [make_node("Identity", [name], ["embs"])]
    values = [make_tensor_value_info(each, onnx.TensorProto.FLOAT, list(shape)) for each, shape in inputs]
    output = make_tensor_value_info("embs", onnx.TensorProto.FLOAT, None)
    made = make_model(
        make_graph(nodes, "network", values, [output]), opset_imports=[make_opsetid("", 13)], ir_version=8
    )
    path.write_bytes(made.SerializeToString())
    return path


def buzz(low, high, seconds, rate, seed=0):
    """Noise between two frequencies in Hz that swells four times a second, `[time]`, float32."""
    spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal(round(seconds * rate)))
    frequencies = np.fft.rfftfreq(round(seconds * rate), 1 / rate)
    spectrum[(frequencies < low) | (frequencies > high)] = 0
    noise = np.fft.irfft(spectrum, round(seconds * rate))
    swell = 0.51 + 0.49 * np.sin(2 * np.pi * 4 * np.arange(len(noise)) / rate)
    return (0.05 * swell * noise / noise.std()).astype(np.float32)
