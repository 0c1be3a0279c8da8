"""An ONNX file separates as torch does: the same windows, tracks and files, in one line where it cannot."""

import json

import numpy as np
import pytest
import soundfile

from tests.model_io.test_onnx_export import spectral
from unified_sess.cli import main
from unified_sess.inference.onnx_separator import OnnxSeparator
from unified_sess.inference.separating import Separator
from unified_sess.inference.windows import Windows, separate_stream
from unified_sess.model_io import onnx_export
from unified_sess.model_io.export import export
from unified_sess.model_io.model_files import save_model
from unified_sess.model_io.model_folder import ONNX
from unified_sess.model_io.onnx_export import to_onnx
from unified_sess.model_io.onnx_file import check_onnx_file
from unified_sess.utils.errors import UserError

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")
RATE = 8000


@pytest.fixture(scope="module", params=[{}, {"silence_threshold": -30.0, "enhanced_from": "sources"}])
def folder(request, tmp_path_factory):
    """A model folder with its ONNX file; free in level, and as one that has learnt silence and level."""
    folder = tmp_path_factory.mktemp("model")
    config, modules = spectral("bandsplit", **request.param)
    save_model(folder, config, modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_export, "TRIALS", ((0.3, 2),))
        (folder / ONNX).write_bytes(to_onnx(config, modules))
    return folder


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """Two voices that take turns, at another rate than the model's."""
    path = tmp_path_factory.mktemp("recording") / "talk.wav"
    time, generator = np.arange(5 * 11025) / 11025, np.random.default_rng(0)
    voices = [
        np.sin(2 * np.pi * f * time) * (np.sin(2 * np.pi * turn * time) > 0) for f, turn in ((200, 0.5), (1300, 0.7))
    ]
    soundfile.write(path, 0.2 * sum(voices) + 0.01 * generator.standard_normal(len(time)), 11025, subtype="FLOAT")
    return path


@pytest.mark.parametrize("passes", ["1", "2"])
def test_files_are_those_of_torch(passes, folder, recording, tmp_path, capsys):
    options = ["--enhanced", "--noise", "--rttm", "--normalize", "-30", "--window", "1", "--overlap", "0.3", "--json"]
    options += ["--passes", passes]
    summaries = {}
    for runtime in ("torch", "onnx"):
        arguments = ["separate", str(recording), "--output-dir", str(tmp_path / runtime), "--runtime", runtime]
        main([*arguments, "--model", str(folder), "--num-spks", "2", *options])
        summaries[runtime] = json.loads(capsys.readouterr().out)
    torch, onnx = summaries["torch"], summaries["onnx"]
    assert list(torch["outputs"]) == list(onnx["outputs"]) == ["s1", "s2", "enhanced", "noise", "rttm"]
    assert torch["speech"] == pytest.approx(onnx["speech"], abs=0.03)
    for kind, path in torch["outputs"].items():
        if kind != "rttm":
            expected, found = soundfile.read(path)[0], soundfile.read(onnx["outputs"][kind])[0]
            assert expected.any()
            np.testing.assert_allclose(found, expected, atol=1e-3 * np.abs(expected).max())


def test_windows_and_tracks_are_those_of_torch(folder):
    blocks = np.random.default_rng(0).standard_normal((7, 4321)).astype("f4")
    windows = Windows(0.6, 0.2, 3)
    torch, onnx = Separator.load(folder, "cpu"), OnnxSeparator.load(folder / ONNX)
    expected = list(separate_stream(torch, blocks, windows, enhanced=True))
    found = list(separate_stream(onnx, blocks, windows, enhanced=True))
    assert [piece.shape for piece in expected] == [piece.shape for piece in found]
    expected, found = np.concatenate(expected), np.concatenate(found)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
    assert onnx.separate_windows(np.zeros((0, 100), "f4"), True).shape == (0, 100, 3)


def test_results_of_another_runtime_are_not_taken_for_its_own(folder, recording, tmp_path, capsys):
    for runtime in ("onnx", "onnx", "torch"):
        arguments = ["separate", str(recording), "--output-dir", str(tmp_path), "--runtime", runtime]
        try:
            main([*arguments, "--model", str(folder)])
        except SystemExit:
            pass
    said = capsys.readouterr()
    assert "1 skipped" in said.out and "is of another recording, another model or other options" in said.err


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--effort", "1"], "leave --effort out"),
        (["--device", "cuda"], "leave --device out"),
        (["--model", "absent.onnx"], "cannot read absent.onnx"),
        (["--model", "FOLDER/model.safetensors"], "is a file: give the folder"),
        (["--model", "EMPTY"], "has no model.onnx: the whole package writes it, unified-sess export"),
    ],
)
def test_what_it_cannot_do_is_one_line(arguments, said, folder, recording, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    arguments = [a.replace("FOLDER", str(folder)).replace("EMPTY", str(tmp_path / "empty")) for a in arguments]
    model = [] if "--model" in arguments else ["--model", str(folder)]
    with pytest.raises(SystemExit):
        main(
            ["separate", str(recording), "--output-dir", str(tmp_path / "out"), "--runtime", "onnx", *model, *arguments]
        )
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_an_onnx_file_needs_no_runtime_to_be_named(folder, recording, tmp_path, capsys):
    main(["separate", str(recording), "--output-dir", str(tmp_path), "--model", str(folder / ONNX)])
    assert "separated 1 file" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(
            [
                "separate",
                str(recording),
                "--output-dir",
                str(tmp_path),
                "--model",
                str(folder / ONNX),
                "--runtime",
                "torch",
            ]
        )
    assert "leave out --runtime torch" in capsys.readouterr().err


def test_a_file_that_does_not_give_what_it_says(folder):
    file = check_onnx_file((folder / ONNX).read_bytes(), "it")
    with pytest.raises(UserError, match="says 3 speakers"):
        OnnxSeparator(file._replace(config=file.config._replace(num_spks=3)), "it")


def test_half_of_the_size_gives_the_same_samples(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_export, "TRIALS", ((0.3, 2),))
    exported = export(folder, tmp_path / "small", half=True, plain=True, onnx=True)
    alone = export(folder, tmp_path / "other" / "small.onnx", half=True)
    assert alone.read_bytes() == (exported / ONNX).read_bytes()
    weights = sum(array.nbytes for array in _weights(folder / ONNX))
    assert sum(array.nbytes for array in _weights(alone)) == weights / 2
    mixture = np.random.default_rng(0).standard_normal((1, 3000)).astype("f4")
    expected = Separator.load(exported, "cpu").separate_windows(mixture)
    found = OnnxSeparator.load(alone).separate_windows(mixture)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def _weights(path):
    import onnx

    return [onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer]
