"""What can go wrong before the page is served is one line; what it serves to whom."""

import contextlib
import importlib.util
import socket
import threading
import time

import httpx
import numpy as np
import pytest
import soundfile

from tests.app.browser import Served, until
from unified_sess.app.server import SHIPPED, serve
from unified_sess.utils.errors import UserError


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="extra `app`"):
        serve([])


def test_a_port_that_is_taken_and_a_host_that_is_none_are_named():
    pytest.importorskip("gradio", reason="needs the extra `app`")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} .*another --host or --port"):
            serve([], port=port)
    with pytest.raises(UserError, match="--host nowhere.invalid"):
        serve([], host="nowhere.invalid")
    with pytest.raises(UserError, match="--host localhost.. is no address"):
        serve([], host="localhost..")  # was a UnicodeError
    for size in (0, float("inf"), float("nan")):
        with pytest.raises(UserError, match="--max-size"):
            serve([], max_size=size)


class Tab:
    """A tab of the page without a browser: what Gradio's own program in a browser sends."""

    def __init__(self, url, name):
        self.url, self.name, self.open = url, name, True
        self.client = httpx.Client(timeout=120)
        (self.run,) = [d for d in self.client.get(f"{url}/config").json()["dependencies"] if len(d["inputs"]) == 6]
        self.beating = threading.Thread(target=self._beat, daemon=True)
        self.beating.start()

    def _beat(self):
        with (
            contextlib.suppress(httpx.HTTPError),
            httpx.stream("GET", f"{self.url}/gradio_api/heartbeat/{self.name}", timeout=None) as lines,
        ):
            for _ in lines.iter_lines():
                if not self.open:
                    return

    def upload(self, path):
        with open(path, "rb") as file:
            return self.client.post(f"{self.url}/gradio_api/upload", files={"files": (path.name, file)}).json()[0]

    def separate(self, path):
        """All that the page says of a file."""
        file = {"path": str(path), "orig_name": "x", "meta": {"_type": "gradio.FileData"}}
        data = {"data": [file, None, SHIPPED, 0, 1, 1], "fn_index": self.run["id"], "session_hash": self.name}
        assert self.client.post(f"{self.url}/gradio_api/queue/join", json=data).status_code == 200
        said = []
        with self.client.stream(
            "GET", f"{self.url}/gradio_api/queue/data", params={"session_hash": self.name}
        ) as lines:
            for line in lines.iter_lines():
                said.append(line)
                if "process_completed" in line:
                    return "\n".join(said)

    def close(self):
        self.open = False


@pytest.fixture
def page(tmp_path):
    pytest.importorskip("gradio", reason="needs the extra `app`")
    (tmp_path / "temporary").mkdir()
    served = Served(tmp_path / "temporary")
    yield served
    if served.process.poll() is None:
        served.end()


@pytest.mark.slow
def test_files_that_nobody_uploaded_are_not_read(page, tmp_path):
    """Whoever reached the page could have any file of the machine separated, and hear it."""
    soundfile.write(tmp_path / "secret.wav", 0.1 * np.random.default_rng(0).standard_normal(16000), 16000)
    tab = Tab(page.url, "one")
    assert "Done" not in tab.separate(tmp_path / "secret.wav") and "secret" not in " ".join(page.files())
    (folder,) = page.folder.iterdir()
    mine = Tab(page.url, "two")
    for place in (folder / "lock", folder):  # what is no upload is not deleted with the tab either
        assert "Done" not in mine.separate(place)
    mine.close()
    time.sleep(3)
    assert (folder / "lock").exists()
    assert "Done" in tab.separate(tab.upload(tmp_path / "secret.wav"))
    status, said = page.end()  # with a tab that is open
    assert status == 0 and said.endswith("unified-sess app: ended, uploads and results are deleted\n")
    assert "InvalidPathError" in said and "CancelledError" not in said  # Gradio tells of the first


@pytest.mark.slow
def test_what_two_tabs_upload_alike_stays_until_both_are_closed(page, tmp_path):
    """Closing one tab deleted the upload of another."""
    soundfile.write(tmp_path / "a.wav", 0.1 * np.random.default_rng(0).standard_normal(16000), 16000)
    tabs = [Tab(page.url, name) for name in ("one", "two")]
    places = {tab.upload(tmp_path / "a.wav") for tab in tabs}
    assert len(places) == 1
    for tab in tabs:
        assert "Done" in tab.separate(*places)
    tabs[0].close()
    until(lambda: sum("results-" in str(path) for path in page.folder.rglob("*_recording.wav")) == 1, "the deletion")
    assert "Done" in tabs[1].separate(*places)
