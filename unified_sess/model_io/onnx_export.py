"""A network as one ONNX file that runs without torch: the mixture goes in as samples, the sources come out as samples."""

import contextlib
import copy
import io
import json
import logging
import warnings
from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from unified_sess.model_io.model_folder import ModelConfig
from unified_sess.model_io.onnx_file import INPUT, OPSET, OUTPUTS, check_onnx_file
from unified_sess.network import (
    MODULE_NAMES,
    decode,
    enhanced_mixture,
    estimate,
    minimum_length,
    separate_and_enhance,
)
from unified_sess.nnet.dereverberation import Dereverberation
from unified_sess.utils.errors import UserError

AXES = {name: {0: "batch", 1: "time"} for name in (INPUT, *OUTPUTS)}
EXAMPLE_SECONDS = 1.0  # s of the signal that the network is traced with
TRIALS = ((0.01, 1), (1.0, 2), (10.37, 1), (60.0, 1))  # s and batch on which the file must agree with torch
TOLERANCE = 1e-4  # of the largest sample
LARGE_CONSTANT = 1000  # bytes; larger constants are stored as weights are


def to_onnx(config: ModelConfig, modules: Mapping[str, nn.Module], half: bool = False) -> bytes:
    """A network as the bytes of an ONNX file, after trying that it agrees with torch.

    Its input is `mixture` `[batch, time]` at the model's rate, of any batch and length; its outputs are `sources`
    `[batch, time, speakers]` and `enhanced` `[batch, time]`, all float32. The file's metadata has `sample_rate` and
    whatever else `config.json` says besides the modules.

    Arguments
    ---------
    config : ModelConfig
        What the model is.
    modules : mapping of torch.nn.Module
        encoder, enhancer, masknet, decoder.
    half : bool
        Store weights that 16 bits hold exactly in 16 bits; they are 32-bit again when the file is loaded.

    Raises
    ------
    UserError
        When ONNX is not installed or the file would give other samples than torch.
    """
    onnx, _ = _packages()
    if any(isinstance(module, Dereverberation) and module.causal for module in modules["encoder"].modules()):
        raise UserError(
            "no ONNX file was written: causal dereverberation finds its filters frame by frame, which a file of ONNX "
            "cannot: run the model with torch, or train one with `past: 0` in its network file"
        )
    network = _OnnxNetwork(modules, config.enhanced_from).eval()
    example, file = torch.randn(1, round(EXAMPLE_SECONDS * config.sample_rate)), io.BytesIO()
    try:
        with _quiet_exporter(), torch.no_grad():
            torch.onnx.export(
                network,
                (example,),
                file,  # type: ignore[arg-type]  # torch takes buffers too, though it does not say so
                input_names=[INPUT],
                output_names=list(OUTPUTS),
                dynamic_axes=AXES,
                opset_version=OPSET,
                dynamo=False,  # the newer exporter fails at a bidirectional LSTM of dynamic length
            )
        model = onnx.load_from_string(file.getvalue())
    except Exception as error:  # noqa: BLE001 - an operation without ONNX's like can raise anything
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:100]
        raise _refused(modules, reason) from None
    if half:
        _store_in_16_bits(model, onnx)
    said = {"format": "unified_sess", "format_version": 1, **config._asdict()}
    for key, value in said.items():
        if key != "modules" and value is not None:
            model.metadata_props.add(key=key, value=value if isinstance(value, str) else json.dumps(value))
    data = model.SerializeToString()
    try:
        check_onnx_file(data, "it")  # what is written can be read
    except UserError as error:
        raise _refused(modules, str(error).partition(":")[0]) from None
    check_onnx(data, config, modules)
    return data


def _store_in_16_bits(model, onnx):
    """Store the weights of a model that lose nothing by it as half-precision numbers, each behind a cast to 32 bits."""
    _store_constants_as_weights(model, onnx)
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT:
            continue
        weights = onnx.numpy_helper.to_array(tensor)
        with np.errstate(over="ignore"):
            halved = weights.astype(np.float16)
        if np.array_equal(halved, weights):
            name = f"{tensor.name}.half"
            casts.append(onnx.helper.make_node("Cast", [name], [tensor.name], to=onnx.TensorProto.FLOAT))
            tensor.CopyFrom(onnx.numpy_helper.from_array(halved, name))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _store_constants_as_weights(model, onnx):
    """Large constants, such as the waves of a Fourier transform, become weights; those that are equal, one."""
    kept, moved = {}, {}
    for node in [node for node in model.graph.node if node.op_type == "Constant"]:
        value = onnx.helper.get_attribute_value(node.attribute[0])
        if not isinstance(value, onnx.TensorProto) or len(value.raw_data) < LARGE_CONSTANT:
            continue
        output = node.output[0]
        moved[output] = kept.setdefault((value.data_type, *value.dims, value.raw_data), output)
        if moved[output] == output:
            value.name = output
            model.graph.initializer.append(value)
        model.graph.node.remove(node)
    for node in model.graph.node:
        node.input[:] = [moved.get(name, name) for name in node.input]


def check_onnx(data: bytes, config: ModelConfig, modules: Mapping[str, nn.Module]) -> float:
    """Largest deviation of a file from torch over `TRIALS`, as a share of the largest sample.

    Raises
    ------
    UserError
        When it is above `TOLERANCE` or the file does not run at some length or batch.
    """
    _, onnxruntime = _packages()
    reference, worst = _copies(modules), 0.0
    try:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        for seconds, batch in TRIALS:
            mixture = _trial(batch, max(1, round(seconds * config.sample_rate)))
            with torch.no_grad():
                outputs = separate_and_enhance(reference, mixture, config.enhanced_from)
            expected = [output.numpy() for output in outputs]
            for found, wanted in zip(session.run(list(OUTPUTS), {INPUT: mixture.numpy()}), expected, strict=True):
                if found.shape != wanted.shape:
                    raise _refused(modules, f"the shape of {seconds} s is {found.shape}")
                deviation = float(np.abs(found - wanted).max() / (np.abs(wanted).max() or 1.0))
                if not deviation <= TOLERANCE:  # nor is NaN
                    raise _refused(modules, f"it deviates by {deviation:.1g} of the largest sample at {seconds} s")
                worst = max(worst, deviation)
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001 - the runtime has its own kinds of errors
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:100]
        raise _refused(modules, reason) from None
    return worst


def _packages():
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise UserError(
            f"ONNX files need the package {error.name}: pip install onnx onnxruntime (the extra `onnx`)"
        ) from None
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    return onnx, onnxruntime


@contextlib.contextmanager
def _quiet_exporter():
    """Without the tracer's warnings about branches, which the trials judge, and the graph it prints where it fails."""
    print_graph = torch._C._jit_onnx_log
    torch._C._jit_onnx_log = lambda *_: None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch._C._jit_onnx_log = print_graph


def _refused(modules, reason):
    kinds = ", ".join(dict.fromkeys(type(modules[name]).__name__ for name in ("enhancer", "masknet")))
    return UserError(f"no ONNX file was written: {kinds} would not give the same samples in it ({reason})")


def _trial(batch, length):
    """A reproducible mixture of tones and noise that swells and falls, `[batch, length]`."""
    generator = torch.Generator().manual_seed(0)
    time = torch.arange(length) / length
    noise = torch.randn(batch, length, generator=generator)
    return 0.1 * noise * (1 + torch.sin(40 * time)) + 0.1 * torch.sin(torch.arange(length) / 7)


class _OnnxNetwork(nn.Module):
    """Mixture `[batch, time]` to sources `[batch, time, speakers]` and the enhanced mixture `[batch, time]`.

    The forward path of `unified_sess.network.separate` without branches, which tracing would leave out, and without
    norms whose mean over a whole signal loses digits in ONNX's runtimes.
    """

    def __init__(self, modules, enhanced_from) -> None:
        super().__init__()
        for name, module in _copies(modules).items():
            self.add_module(name, _with_exact_norms(module))
        self.minimum, self.enhanced_from = minimum_length(modules["encoder"]), enhanced_from

    def __getitem__(self, name):
        return getattr(self, name)

    def forward(self, mixture):
        batch, time = mixture.shape
        # Padded always, then cut to what `encode` pads a short signal to.
        length = torch.clamp(torch._shape_as_tensor(mixture)[1], min=self.minimum)
        noisy = self.encoder(F.pad(mixture, (0, self.minimum))[:, :length])
        features = estimate(self.enhancer, noisy)[0]
        sources = estimate(self.masknet, features)
        sources = decode(self, sources.flatten(0, 1), time).reshape(-1, batch, time).permute(1, 2, 0)
        if self.enhanced_from == "sources":
            return sources, sources.sum(2)
        return sources, enhanced_mixture(self, features, time)


def _copies(modules):
    return {name: copy.deepcopy(modules[name]).cpu().float().eval() for name in MODULE_NAMES}


def _with_exact_norms(module):
    for name, child in module.named_children():
        if isinstance(child, nn.GroupNorm) and child.num_groups == 1:
            setattr(module, name, _TwoStageNorm(child))
        else:
            _with_exact_norms(child)
    return module


class _TwoStageNorm(nn.Module):
    """GroupNorm of one group over `[batch, channels, time, others]`, its means taken along time last."""

    def __init__(self, norm) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps

    def forward(self, x):
        x = x - x.mean((1, 3), keepdim=True).mean(2, keepdim=True)
        power = x.square().mean((1, 3), keepdim=True).mean(2, keepdim=True)
        shape = (1, -1, 1, 1)
        return x * (power + self.eps).rsqrt() * self.weight.view(shape) + self.bias.view(shape)
