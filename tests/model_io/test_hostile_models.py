"""Small untrusted files that would take minutes or gigabytes are refused before they do."""

import io
import json
import os
import resource
import subprocess
import sys
import zipfile

import pytest
import safetensors.torch
import torch
import yaml

from tests.model_io.results import LOBES, make_results, node, trees
from unified_sess.model_io.model_folder import CONFIG, WEIGHTS
from unified_sess.model_io.module_tree import TreeDumper, as_yaml, build
from unified_sess.nnet.conv_tasnet import MaskNet

PROCESSOR_TIME = 5.0  # s that one refusal may take; the whole program may take LONGEST
LONGEST = 120
MEMORY = 300  # MB by which one refusal may grow the program
LOAD = """
import json, resource, sys, time
from unified_sess.inference import UnifiedSeparation
from unified_sess.utils.errors import UserError

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "linux" else 1024**2)

UnifiedSeparation.from_pretrained(sys.argv[1], device="cpu")  # imports all
for folder in sys.argv[2:]:
    start, memory = time.process_time(), peak()
    try:
        UnifiedSeparation.from_pretrained(folder, device="cpu")
        message = None
    except UserError as error:
        message = str(error)
    print(json.dumps([folder, message, time.process_time() - start, peak() - memory]), flush=True)
"""
ALIASES = "a0: &a0 [x, x]\n" + "".join(f"a{k}: &a{k} [*a{k - 1}, *a{k - 1}]\n" for k in range(1, 40))


def dual_path(layers, layers_inside):
    """A dual-path network of many layers."""
    block = node(f"{LOBES}.SBRNNBlock", input_size=8, hidden_channels=8, num_layers=layers_inside)
    return node(f"{LOBES}.Dual_Path_Model", in_channels=8, out_channels=8, num_layers=layers,
                intra_model=block, inter_model=block)  # fmt: skip


def conv_tasnet(blocks):
    """A Conv-TasNet and weights that fit it, but for dilations that no signal has."""
    module = MaskNet(8, 8, 16, 3, 2, 1, 1)
    state = module.state_dict()
    last = {key: value for key, value in state.items() if "temporalblock_0_1" in key}
    for block in range(2, blocks):
        state |= {key.replace("block_0_1", f"block_0_{block}"): value.clone() for key, value in last.items()}
    return trees("convtasnet")["enhancer"]["args"] | {"X": blocks}, state


def nested(depth):
    """Modules inside modules."""
    tree = node("unified_sess.network.NoEnhancer")
    for _ in range(depth):
        tree = node("unified_sess.network.NoEnhancer", x=tree)
    return tree


ENHANCERS = {
    "60000 layers": node("unified_sess.nnet.time_frequency.TimeFrequencyNet", num_layers=60000, num_spks=1),
    "65536 squared": node(f"{LOBES}.SBRNNBlock", input_size=65536, hidden_channels=65536, num_layers=1),
    "8192 squared": node(f"{LOBES}.SBRNNBlock", input_size=8192, hidden_channels=8192, num_layers=1),
    "layers of layers": dual_path(64, 64),
    "as many layers as may be": dual_path(14, 32),
    "layers in lists of an argument that is none": node(
        "unified_sess.network.NoEnhancer", bands=[[dual_path(8, 8)] * 60] * 60
    ),
    "nested modules": nested(300),
    "nested lists": node("unified_sess.network.NoEnhancer", bands=json.loads("[" * 400 + "1" + "]" * 400)),
    "not a number": node("unified_sess.network.NoEnhancer", hidden=float("nan")),
    "a number of a million digits": node("unified_sess.network.NoEnhancer", hidden=10**4000),
    "a million bands": node("unified_sess.nnet.band_split.BandSplitNet", bands=[[1, 1]] * 200_000),
}


@pytest.fixture(scope="module")
def spoiled(random_model, tmp_path_factory):
    """Hostile folders by what is wrong with them."""
    folders = {}
    config = json.loads((random_model / CONFIG).read_text())

    def folder(name, modules=None, tensors=None, text=None, card=""):
        made = tmp_path_factory.mktemp("hostile")
        changed = config | {"modules": config["modules"] | (modules or {})}
        (made / CONFIG).write_text(json.dumps(changed) if text is None else text)
        safetensors.torch.save_file(tensors or weights, made / WEIGHTS)
        (made / "README.md").write_text(card)
        folders[name] = made
        return made

    weights = safetensors.torch.load_file(random_model / WEIGHTS)
    for name, tree in ENHANCERS.items():
        folder(name, {"enhancer": tree})
    args, state = conv_tasnet(40)
    others = {key: value for key, value in weights.items() if not key.startswith("enhancer.")}
    fitting = others | {f"enhancer.{key}": value for key, value in state.items()}
    folder("dilation 2 ** 39", {"enhancer": node("unified_sess.nnet.conv_tasnet.MaskNet", **args)}, fitting)
    decoder = config["modules"]["decoder"]
    folder("a decoder's stride", {"decoder": node(decoder["class"], **decoder["args"] | {"stride": 8192})})
    folder("a decoder's padding", {"decoder": node(decoder["class"], **decoder["args"] | {"dilation": 10**6})})
    folder("2000 lists in JSON", text="[" * 2000 + "]" * 2000)
    folder("a long config", text=" " * 2_000_000)
    with open(folder("weights of 1 TB") / WEIGHTS, "r+b") as file:
        file.truncate(10**12)  # takes no place on the disk
    with open(folder("a header of 50 MB") / WEIGHTS, "r+b") as file:
        file.write((50_000_000).to_bytes(8, "little"))
        file.truncate(60_000_000)

    def results(name, **options):
        made = tmp_path_factory.mktemp("hostile") / "results"
        make_results(made, si_snri=(1.0,), **options)
        folders[name] = made
        return made

    def experiment(made, content):
        text = {"num_spks": 2, "sample_rate": 8000, "modules": as_yaml(trees("convtasnet") | content)}
        (made / "hyperparams.yaml").write_text(yaml.dump(text, Dumper=TreeDumper))

    for checkpoint in results("a large network and no checkpoint").glob("save/CKPT*/CKPT.yaml"):
        checkpoint.unlink()
        experiment(
            checkpoint.parents[2],
            {"enhancer": node(f"{LOBES}.SBRNNBlock", input_size=8192, hidden_channels=8192, num_layers=1)},
        )
    experiment(results("a large network and small checkpoints"), {"enhancer": ENHANCERS["8192 squared"]})
    experiment(results("a deep network and small checkpoints"), {"enhancer": ENHANCERS["60000 layers"]})
    (results("aliases") / "hyperparams.yaml").write_text(ALIASES + "modules: *a39\n")
    (results("an alias of itself") / "hyperparams.yaml").write_text("modules: &a {encoder: *a}\n")
    (results("2000 lists in YAML") / "hyperparams.yaml").write_text("[" * 2000 + "]" * 2000)
    (results("2000 mappings in YAML") / "hyperparams.yaml").write_text("{a: " * 2000 + "}" * 2000)
    (results("a long number") / "hyperparams.yaml").write_text(f"num_spks: {'9' * 100_000}")
    (path,) = results("aliases in a checkpoint's notes").glob("save/CKPT*/CKPT.yaml")
    path.write_text(ALIASES)
    (path,) = results("a packed checkpoint").glob("save/CKPT*/enhancer.ckpt")
    pack(path, build(trees("convtasnet")["enhancer"], ""), 500_000_000)
    (path,) = results("one number seen as many").glob("save/CKPT*/enhancer.ckpt")
    torch.save({key: torch.zeros(1).expand(2**30) for key in torch.load(path)}, path)
    (path,) = results("a pickle that asks for memory").glob("save/CKPT*/enhancer.ckpt")
    torch.save({"a": bytearray(10)}, path)
    return folders


def pack(path, module, size):
    """Write a checkpoint whose zip file is deflated: a large tensor of zeros takes little of it."""
    file = io.BytesIO()
    torch.save(dict(module.state_dict(), zeros=torch.zeros(size // 4)), file)
    with zipfile.ZipFile(file) as plain, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for part in plain.infolist():
            packed.writestr(part.filename, plain.read(part))


def limit():
    resource.setrlimit(resource.RLIMIT_CPU, (LONGEST, LONGEST))


@pytest.mark.slow
def test_hostile_models_take_neither_time_nor_memory(spoiled, random_model):
    command = [sys.executable, "-c", LOAD, random_model, *spoiled.values()]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, preexec_fn=limit, check=False)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row[0] for row in found] == [str(folder) for folder in spoiled.values()], done.stderr[-1000:]
    for name, (folder, message, seconds, memory) in zip(spoiled, found):
        print(f"{name}: {seconds:.2f} s, {memory:.0f} MB: {message}")
        assert message is not None and folder in message and "\n" not in message and len(message) < 500, name
        assert seconds < PROCESSOR_TIME and memory < MEMORY, (name, seconds, memory)


def test_a_hostile_card_keeps_no_model_from_loading(random_model, tmp_path):
    import shutil

    from unified_sess.model_io.model_card import read_evaluations

    folder = shutil.copytree(random_model, tmp_path / "model")
    (folder / "README.md").write_text(f"---\n{ALIASES}model-index: *a39\n---\n")
    assert read_evaluations(folder) == []
