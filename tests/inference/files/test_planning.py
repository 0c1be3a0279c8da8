"""Which files are separated: everything that can be read, once, and no results."""

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from unified_sess.inference.files.marks import OLD_PREFIX, Mark
from unified_sess.inference.files.planning import Job, find_recordings, in_shard

NOISE = 0.1 * np.random.default_rng(0).standard_normal(800)


def write(path, comment=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    with soundfile.SoundFile(path, "w", 8000, 1, format="FLAC" if path.suffix == ".flac" else "WAV") as file:
        if comment is not None:
            file.comment = comment
        file.write(NOISE)


def names(plan):
    return sorted(str(job.folder / job.name) for job in plan.jobs)


@pytest.mark.parametrize("extension", "aiff aif w64 caf au opus oga wave m4a mp4 webm aac amr WAV Flac ogg mp3".split())
def test_a_folder_gives_every_extension_that_can_be_read(tmp_path, extension):
    """Folders skipped .aiff .aif .w64 .caf .au .opus .oga .wave and films without a word."""
    (tmp_path / f"a.{extension}").touch()
    assert names(find_recordings([tmp_path], tmp_path / "out")) == ["a"]


def test_what_is_left_out_is_said_in_one_line(tmp_path):
    write(tmp_path / "a.wav")
    write(tmp_path / "a_s1.wav", Mark("0", ("s1",)).comment())
    for name in ("notes.txt", "b.jpg", ".hidden.wav", "README"):
        (tmp_path / name).touch()
    plan = find_recordings([tmp_path], tmp_path / "out")
    assert names(plan) == ["a"] and len(plan.notes) == 1
    for words in (str(tmp_path), "3 that are no audio (.jpg, .txt, without extension)", "1 results of this program"):
        assert words in plan.notes[0]
    assert find_recordings([tmp_path / "a.wav"], tmp_path / "out").notes == []


def test_folders_that_a_glob_matches_are_searched_through(tmp_path):
    """They were dropped without a word, where a shell that expands the glob itself has them searched."""
    for name in ("a.wav", "sub/b.wav", "sub/deep/c.wav", "out/d.wav"):
        write(tmp_path / name)
    plan = find_recordings([str(tmp_path / "*")], tmp_path / "out")
    assert names(plan) == ["a", "b", "deep/c"] and not plan.problems and not plan.notes
    assert names(find_recordings([str(tmp_path / "**")], tmp_path / "elsewhere")) == ["a", "b", "c", "d"]
    assert names(find_recordings([str(tmp_path / "**/dee*")], tmp_path / "elsewhere")) == ["c"]
    (tmp_path / "empty").mkdir()
    (line,) = find_recordings([str(tmp_path / "e*")], tmp_path / "out").problems
    assert "no audio file matches" in line


def test_extensions_in_two_cases_are_named_once(tmp_path):
    """p.wav and p.WAV became p_wav_wav_2 and p_WAV_WAV."""
    for name in ("p.wav", "p.WAV", "p.flac"):
        write(tmp_path / name)
    assert names(find_recordings([tmp_path], tmp_path / "out")) == ["p_WAV", "p_flac", "p_wav_2"]


def test_standard_input_does_not_share_results_with_a_file_of_its_name(tmp_path):
    """The results of one replaced those of the other."""
    write(tmp_path / "stdin.wav")
    piped = Job(Path("/proc/self/fd/9"), Path(), "stdin", "standard input")
    assert names(find_recordings([tmp_path], tmp_path / "out", [piped])) == ["stdin", "stdin_wav"]
    assert [in_shard(piped, (k, 3)) for k in (1, 2, 3)] == [True, False, False]
    write(tmp_path / "deep/er/stdin.wav")
    found = names(find_recordings([tmp_path / "stdin.wav", tmp_path / "deep/er/stdin.wav"], tmp_path / "out", [piped]))
    assert found == ["deep/er/stdin", "stdin", "stdin_wav"]


def test_links_are_followed_without_loops_and_nothing_twice(tmp_path):
    write(tmp_path / "in/sub/a.wav")
    write(tmp_path / "elsewhere/b.wav")
    write(tmp_path / "elsewhere/c/d.wav")
    for place, link in [
        (tmp_path / "elsewhere", "in/linked"), (tmp_path / "in", "in/sub/loop"), (tmp_path / "in/sub", "in/again"),
        (tmp_path / "in/sub/a.wav", "in/a2.wav"), (tmp_path / "elsewhere/b.wav", "in/sub/b2.wav"),
        (tmp_path / "elsewhere/c", "in/zzz"),
    ]:  # fmt: skip
        (tmp_path / link).symlink_to(place)
    plan = find_recordings([tmp_path / "in"], tmp_path / "out")
    sources = [os.path.realpath(job.source) for job in plan.jobs]
    assert len(sources) == len(set(sources)) == 3
    assert "sub/a" in names(plan)  # under its own name, not under a link's
    assert "links to what is searched anyway" in plan.notes[0]


def test_a_link_to_the_output_folder_is_not_entered(tmp_path):
    write(tmp_path / "in/a.wav")
    write(tmp_path / "out/a_s1.wav")
    (tmp_path / "in/results").symlink_to(tmp_path / "out")
    assert names(find_recordings([tmp_path / "in"], tmp_path / "out")) == ["a"]


@pytest.mark.parametrize("comment", [Mark("0", ("s1",)).comment(), OLD_PREFIX + "0123"])
@pytest.mark.parametrize("extension", ["wav", "flac"])
def test_results_are_never_separated_again(tmp_path, monkeypatch, comment, extension):
    """`separate *.wav --output-dir .`, given twice, separated the results of the first time."""
    write(tmp_path / f"a.{extension}")
    write(tmp_path / f"a_s1.{extension}", comment)
    monkeypatch.chdir(tmp_path)
    for paths in (["."], [f"*.{extension}"], [f"a.{extension}", f"a_s1.{extension}"]):
        plan = find_recordings(paths, "out")
        assert names(plan) == ["a"] and not plan.problems and "1 results of this program" in plan.notes[0]
    only = find_recordings([f"a_s1.{extension}"], "out")
    assert not only.jobs and not only.problems and only.notes


def test_every_file_is_in_one_share_whatever_else_there_is(tmp_path):
    for number in range(40):
        (tmp_path / f"{number}.wav").touch()
    jobs = find_recordings([tmp_path], tmp_path / "out").jobs
    shares = [{job.source for job in jobs if in_shard(job, (k, 4))} for k in (1, 2, 3, 4)]
    assert sum(map(len, shares)) == 40 == len(set.union(*shares)) and min(map(len, shares)) > 2
    (tmp_path / "0.wav").unlink()
    (tmp_path / "new.wav").touch()
    later = find_recordings([tmp_path], tmp_path / "out").jobs
    for k, share in enumerate(shares, 1):
        now = {job.source for job in later if in_shard(job, (k, 4))}
        assert now - {tmp_path / "new.wav"} == share - {tmp_path / "0.wav"}
