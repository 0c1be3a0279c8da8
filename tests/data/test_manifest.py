"""Manifests: what is written is read, large ones stay small, wrong files are named."""

import pandas as pd
import pytest

from unified_sess.data.manifest import columns, read_manifest, write_manifest
from unified_sess.utils.errors import UserError


def rows(count, clean=True):
    for k in range(count):
        paths = [f"$data_root/{part}/{k:04}.wav" for part in ("mix_both", "mix_clean", "s1", "s2", "noise")]
        yield [f"{k:04}", 1.5, 12000 + k, 8000, *(paths if clean else [paths[0], "", *paths[2:4], ""])]


def test_what_is_written_is_read(tmp_path):
    write_manifest(tmp_path / "m.csv", rows(5), 2)
    manifest = read_manifest(tmp_path / "m.csv", "/data, old/$x")
    assert (
        len(manifest) == 5
        and manifest.num_spks == 2
        and manifest.frames.tolist() == [12000, 12001, 12002, 12003, 12004]
    )
    row = list(manifest)[3]
    assert (row.id, row.frames) == ("0003", 12003)  # a name of digits stays a name
    assert row.sources == ["/data, old/$x/s1/0003.wav", "/data, old/$x/s2/0003.wav"]
    assert row.noise == "/data, old/$x/noise/0003.wav"


def test_files_that_do_not_exist_are_none(tmp_path):
    write_manifest(tmp_path / "m.csv", rows(2, clean=False), 2)
    row = read_manifest(tmp_path / "m.csv", "/data")[0]
    assert row.clean is None and row.noise is None and row.mixture == "/data/mix_both/0000.wav"


def test_speechbrain_reads_it(tmp_path):
    from speechbrain.dataio.dataset import DynamicItemDataset

    write_manifest(tmp_path / "m.csv", rows(3), 2)
    dataset = DynamicItemDataset.from_csv(tmp_path / "m.csv", replacements={"data_root": "/data"})
    dataset.set_output_keys(["id", "mix_wav", "duration"])
    assert dataset[1] == {"id": "0001", "mix_wav": "/data/mix_both/0001.wav", "duration": 1.5}


def test_a_broken_write_leaves_the_old_manifest(tmp_path):
    write_manifest(tmp_path / "m.csv", rows(3), 2)

    def failing():
        yield from rows(2)
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        write_manifest(tmp_path / "m.csv", failing(), 2)
    assert len(read_manifest(tmp_path / "m.csv", "/")) == 3 and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("text", [None, "", "a,b\n1,2\n", "ID,frames\nx,many\n", "\x00\x01"])
def test_what_is_no_manifest_is_named(tmp_path, text):
    path = tmp_path / "m.csv"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"m\.csv") as caught:
        read_manifest(path, "/")
    assert "\n" not in str(caught.value)


def test_a_large_manifest_keeps_one_copy_of_its_cells(tmp_path):
    write_manifest(tmp_path / "m.csv", rows(20000), 2)
    manifest = read_manifest(tmp_path / "m.csv", "/a/very/long/folder" * 20)
    table = pd.DataFrame({name: manifest._columns[name] for name in columns(2)})
    assert table.memory_usage(deep=True).sum() / len(manifest) < 1000  # bytes a row; expanded paths would take more
