"""Files that appear whole or not at all, and journals."""

import errno
import json
import os
import shutil

import pytest

from unified_sess.utils.files import append_lines, atomic_path

full_device = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")


@full_device
@pytest.mark.parametrize("copied", [True, False])
def test_a_full_disk_names_the_file_and_leaves_nothing(tmp_path, copied):
    path, source = tmp_path / "a.txt", tmp_path / "source"
    source.write_text("x" * 10**6)
    with pytest.raises(OSError) as caught, atomic_path(path) as temporary:
        os.symlink("/dev/full", temporary)
        if copied:
            shutil.copyfile(source, temporary)
        else:
            with open(temporary, "w") as file:
                file.write("x" * 10**6)
    assert caught.value.errno == errno.ENOSPC and caught.value.filename == str(path)
    assert os.listdir(tmp_path) == ["source"]


@full_device
def test_a_journal_on_a_full_disk_is_named():
    with pytest.raises(OSError) as caught, append_lines("/dev/full") as append:
        append("x")
    assert caught.value.errno == errno.ENOSPC and caught.value.filename == "/dev/full"


def test_the_file_that_is_missing_is_named_and_not_the_one_to_be_written(tmp_path):
    with pytest.raises(FileNotFoundError) as caught, atomic_path(tmp_path / "a") as temporary:
        shutil.copyfile(tmp_path / "lost", temporary)
    assert caught.value.filename == str(tmp_path / "lost")


def test_half_a_line_stays_apart(tmp_path):
    path = tmp_path / "done.jsonl"
    path.write_text('["a", 1]\n["b"')
    with append_lines(path) as append:
        append(["c", 2])
        assert json.loads(path.read_text().splitlines()[-1]) == ["c", 2]  # on the disk at once
