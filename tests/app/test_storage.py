"""What the page keeps goes with it, also after a crash."""

import signal
import subprocess
import sys

from unified_sess.app.storage import PREFIX, storage

HOLDS = """
import sys, time
from unified_sess.app.storage import storage
with storage(sys.argv[1]) as folder:
    (folder / "voice.wav").write_bytes(b"secret")
    print(folder, flush=True)
    time.sleep(600)
"""


def test_a_folder_is_private_and_goes_in_the_end(tmp_path):
    with storage(tmp_path) as folder:
        (folder / "voice.wav").write_bytes(b"secret")
        assert folder.stat().st_mode & 0o077 == 0
    assert not list(tmp_path.iterdir())


def test_the_next_start_deletes_what_a_crash_left_and_nothing_else(tmp_path):
    (tmp_path / "unified-sess-notes").mkdir()
    (tmp_path / f"{PREFIX}link").symlink_to(tmp_path / "unified-sess-notes")
    (tmp_path / "unified-sess-notes" / "text").write_text("mine")
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )  # waits for ever, and is killed
    try:
        crashed = process.stdout.readline().strip()
        with storage(tmp_path) as folder:
            assert sorted(path.name for path in (tmp_path / crashed).iterdir()) == ["lock", "voice.wav"]  # still runs
            process.send_signal(signal.SIGKILL)
            process.wait()
            with storage(tmp_path):
                assert not (tmp_path / crashed).exists() and folder.exists()
    finally:
        process.kill()
    assert (tmp_path / "unified-sess-notes" / "text").read_text() == "mine"
