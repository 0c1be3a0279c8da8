"""The small package: it separates without torch, imports only what it declares, and installs from the sources alone."""

import ast
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import soundfile

HEAVY = ("torch", "torchaudio", "speechbrain", "scipy", "sympy", "pandas", "hyperpyyaml", "matplotlib")
LARGEST_WHEEL = 7e6  # bytes; all downloads together may have 70 MB, of which onnxruntime and numpy take 45
# Runs the command as where heavy packages are not installed, then prints whose modules it imported.
COMMAND = f"""
import json, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {HEAVY}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
import importlib.util
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name in {HEAVY} else find_spec(name, *rest)
from unified_sess.cli import main
main(sys.argv[1:])
print(json.dumps(sorted({{name.partition(".")[0] for name in sys.modules}})))
"""


@pytest.fixture(scope="module")
def checkout(repository, tmp_path_factory):
    """What a build reads of the repository; it leaves folders behind, so not in the repository itself."""
    folder = tmp_path_factory.mktemp("checkout")
    unwanted = shutil.ignore_patterns("__pycache__", "sources", "build", "*.egg-info")
    for name in ("unified_sess", "packaging"):
        shutil.copytree(repository / name, folder / name, ignore=unwanted)
    for name in ("LICENSE", "NOTICE"):
        shutil.copy(repository / name, folder)
    return folder


@pytest.fixture(scope="module")
def wheel(checkout):
    """Path of the small package's wheel."""
    build = "from build_runtime import build_wheel; print(build_wheel('.'))"
    done = _run([sys.executable, "-c", build], cwd=checkout / "packaging/runtime")
    return checkout / "packaging/runtime" / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """Longer than a window of the tests, so that voices are tracked."""
    path = tmp_path_factory.mktemp("recording") / "meeting.wav"
    signal = 0.1 * np.random.default_rng(0).standard_normal(3 * 8000)
    soundfile.write(path, signal * (1 + np.sin(np.arange(3 * 8000) / 900)), 8000)
    return path


def test_it_imports_only_what_it_declares(repository, wheel, recording, tmp_path):
    pytest.importorskip("onnxruntime")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(tmp_path / "installed")
    options = [
        "--window",
        "1",
        "--overlap",
        "0.3",
        "--enhanced",
        "--noise",
        "--rttm",
        "--normalize",
        "-30",
        "--overwrite",
    ]
    arguments = ["separate", str(recording), "--output-dir", str(tmp_path / "out"), *options]
    done = _run(
        [sys.executable, "-c", COMMAND, *arguments], env={"PYTHONPATH": str(tmp_path / "installed")}, cwd=tmp_path
    )
    assert (tmp_path / "out/meeting_noise.wav").is_file() and (tmp_path / "out/meeting.rttm").is_file()
    imported = set(json.loads(done.stdout.splitlines()[-1]))
    assert not imported & set(HEAVY)
    text = (repository / "packaging/runtime/pyproject.toml").read_text(encoding="utf-8")
    declared = re.findall(r'"([\w-]+)', re.search(r"^dependencies = \[(.*?)\]", text, re.M | re.S)[1])
    assert set(declared) == {"numpy", "soundfile", "soxr", "onnxruntime", "typer", "rich", "tqdm"}
    owners = importlib.metadata.packages_distributions()
    installed = {_plain(name) for module in imported for name in owners.get(module, ())}
    strange = installed - _with_requirements(declared) - _started_by_python()
    assert not strange - {"unified-sess", "unified-sess-runtime"}, strange


def test_its_files_import_nothing_heavy_and_nothing_that_is_left_out(wheel):
    """Inside functions neither; only the command names what the whole package alone has."""
    with zipfile.ZipFile(wheel) as file:
        sources = {name: file.read(name) for name in file.namelist() if name.endswith(".py")}
    for name, source in sources.items():
        if name in ("unified_sess/cli.py", "unified_sess/inference/__init__.py"):
            continue
        for module in _imports(ast.parse(source)):
            assert module.partition(".")[0] not in HEAVY, (name, module)
            path = module.replace(".", "/")
            own = module.startswith("unified_sess.")
            assert not own or {f"{path}.py", f"{path}/__init__.py"} & sources.keys(), (name, module)


def _imports(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


def test_its_wheel_is_small_and_whole(wheel):
    assert wheel.stat().st_size <= LARGEST_WHEEL
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
    assert {"unified_sess/models/default/model.onnx", "unified_sess/models/default/README.md"} <= names
    assert any(name.endswith("licenses/NOTICE") for name in names)
    assert not [name for name in names if "safetensors" in name or "nnet" in name]


def test_a_source_distribution_builds_without_the_repository(checkout, tmp_path):
    build = "from build_runtime import build_sdist; print(build_sdist('.'))"
    done = _run([sys.executable, "-c", build], cwd=checkout / "packaging/runtime")
    shutil.unpack_archive(checkout / "packaging/runtime" / done.stdout.splitlines()[-1], tmp_path)
    (source,) = tmp_path.iterdir()
    build = "from build_runtime import build_wheel; print(build_wheel('.'))"
    wheel = source / _run([sys.executable, "-c", build], cwd=source).stdout.splitlines()[-1]
    with zipfile.ZipFile(wheel) as file:
        assert "unified_sess/models/default/model.onnx" in file.namelist()


def test_commands_that_need_torch_are_not_offered(tmp_path):
    done = subprocess.run([sys.executable, "-c", COMMAND, "--help"], capture_output=True, text=True, cwd=tmp_path)
    assert re.findall(r"^  ([a-z][a-z-]+)  ", done.stdout, re.M) == ["separate", "join-summaries"]
    assert "whole package" in " ".join(done.stdout.split())
    done = subprocess.run([sys.executable, "-c", COMMAND, "evaluate"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    arguments = ["separate", "a.wav", "--output-dir", "out"]
    for extra, said in (
        (["--runtime", "torch"], "needs the whole package"),
        (["--model", "somebody/model"], "pip install huggingface_hub"),
    ):
        code = COMMAND.replace("('torch',", "('huggingface_hub', 'torch',")
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments, *extra], capture_output=True, text=True, cwd=tmp_path
        )
        assert done.returncode == 1 and said in done.stderr and done.stderr.count("\n") == 1, done.stderr


@pytest.mark.online
@pytest.mark.timeout(900)  # pip on a slow network
def test_a_fresh_environment_separates(checkout, recording, tmp_path):
    """`pip install ./packaging/runtime && unified-sess separate meeting.wav --output-dir separated`, without torch."""
    python = _environment(tmp_path / "fresh")
    _run([python, "-m", "pip", "install", "-q", str(checkout / "packaging/runtime")])
    assert subprocess.run([python, "-c", "import torch"], cwd="/", capture_output=True).returncode == 1
    command = [str(tmp_path / "fresh/bin/unified-sess"), "separate", str(recording), "--output-dir", "separated"]
    done = _run(command, cwd=tmp_path)
    assert "separated 1 file" in done.stdout
    results = sorted((tmp_path / "separated").iterdir())
    assert results and all(soundfile.info(path).frames == soundfile.info(recording).frames for path in results)


def _environment(folder):
    """The Python of a new virtual environment; skips where no package can be fetched."""
    _run([sys.executable, "-m", "venv", str(folder)])
    python = str(folder / "bin/python")
    fetch = [
        python,
        "-m",
        "pip",
        "download",
        "-q",
        "--no-deps",
        "--timeout",
        "5",
        "--retries",
        "0",
        "-d",
        str(folder),
        "tqdm",
    ]
    if subprocess.run(fetch, capture_output=True, env=_clean()).returncode:
        pytest.skip("offline: pip fetches no packages")
    return python


def _run(command, env=(), **options):
    done = subprocess.run(command, capture_output=True, text=True, env={**_clean(), **dict(env)}, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def _clean():
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}


def _plain(name):
    return re.sub("[-_.]+", "-", name).lower()


def _with_requirements(names):
    """Distributions and all that they require, by plain names."""
    found, waiting = set(), list(names)
    while waiting:
        name = _plain(waiting.pop())
        if name in found:
            continue
        found.add(name)
        try:
            lines = importlib.metadata.requires(name) or ()
        except importlib.metadata.PackageNotFoundError:
            continue  # of another system or version of Python
        waiting += [re.match(r"[\w.-]+", line)[0] for line in lines if "extra ==" not in line]
    return found


def _started_by_python():
    """Distributions whose modules Python imports by itself, such as those with .pth files."""
    code = "import json, sys; print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    owners = importlib.metadata.packages_distributions()
    names = json.loads(_run([sys.executable, "-c", code]).stdout)
    return {_plain(name) for module in names for name in owners.get(module, ())}
