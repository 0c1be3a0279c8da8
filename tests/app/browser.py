"""Headless Chromium that tells what it asked for, and a page served for it."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from tests.conftest import REPOSITORY

PATIENCE = 120  # s; a quiet machine needs a few of them
SWITCHES = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
)  # fmt: skip


class Outside:
    """A proxy that reaches nothing and notes what is asked of it: all that does not go to this machine."""

    def __init__(self):
        self.asked = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                with connection:
                    connection.settimeout(5)
                    with contextlib.suppress(OSError):
                        self.asked.append(connection.recv(4096).split(b"\r\n")[0].decode(errors="replace"))
                        connection.sendall(b"HTTP/1.1 502 Nothing\r\ncontent-length: 0\r\n\r\n")


@contextlib.contextmanager
def chromium(folder, outside):
    """Yields a driver of Chromium with an empty profile; skips where one of them is missing."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("needs chromium and chromedriver (Debian's packages chromium, chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for switch in (*SWITCHES, f"--user-data-dir={folder / 'profile'}", f"--proxy-server=127.0.0.1:{outside.port}"):
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    (folder / "downloads").mkdir()
    downloads = {"default_directory": str(folder / "downloads"), "prompt_for_download": False}
    allowed = {"profile.default_content_setting_values.automatic_downloads": 1}  # several from one page
    options.add_experimental_option("prefs", {"download." + key: value for key, value in downloads.items()} | allowed)
    browser = webdriver.Chrome(options, webdriver.ChromeService(driver))
    try:
        yield browser
    finally:
        browser.quit()


def requested(browser):
    """Addresses that the pages asked for since the last call."""
    messages = (json.loads(entry["message"])["message"] for entry in browser.get_log("performance"))
    return [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]


class Served:
    """`unified-sess app` in a process of its own, with `folder` as the place for temporary files."""

    def __init__(self, folder, *arguments):
        self.folder = folder
        command = [sys.executable, "-m", "unified_sess.cli", "app", "--port", "0", *map(str, arguments)]
        environment = {**os.environ, "TMPDIR": str(folder), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
        environment["GRADIO_SERVER_NAME"] = "0.0.0.0"  # must not count
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, cwd=folder
        )
        line = self.process.stdout.readline()
        assert line.startswith("unified-sess app: http://"), line + self.process.stdout.read()
        self.url = line.split()[2]
        self.port = int(self.url.rpartition(":")[2])

    def files(self):
        """What lies in its folder."""
        return sorted(path.name for path in self.folder.rglob("*") if path.is_file())

    def end(self, number=signal.SIGINT):
        """End it by a signal; returns its status and what it said."""
        self.process.send_signal(number)
        said = self.process.communicate(timeout=PATIENCE)[0]
        return self.process.returncode, said


def until(condition, what):
    """Wait until a condition holds and return its value."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.1)
    raise AssertionError(f"waited in vain for {what}")
