"""The page in headless Chromium, as a person uses it: drop a recording, watch, cancel, listen, look, download."""

import signal
import socket
import sys
import time
from urllib.parse import urlsplit

import numpy as np
import pytest
import soundfile

from tests.app.browser import Outside, Served, chromium, requested, until

pytestmark = pytest.mark.slow
pytest.importorskip("gradio", reason="needs the extra `app`")
KINDS = ["recording", "enhanced", "s1", "s2", "noise"]
OWN = ("google.com", "googleapis.com", "duckduckgo.com", "gvt1.com")  # what Chromium asks for by itself
FONTS = "fonts."  # no page of ours asks for them either


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The page with the model that ships, for uploads of up to 2 MB."""
    folder = tmp_path_factory.mktemp("served")
    page = Served(folder, "--max-size", 2)
    yield page
    page.process.kill()


@pytest.fixture(scope="module")
def outside():
    """What Chromium asks for beyond this machine."""
    return Outside()


@pytest.fixture(scope="module")
def browser(served, outside, tmp_path_factory):
    """Chromium with the page open."""
    folder = tmp_path_factory.mktemp("browser")
    with chromium(folder, outside) as browser:
        browser.folder = folder
        browser.get("about:blank")
        requested(browser)
        browser.get(served.url)
        until(lambda: find(browser, "#file input[type=file]"), "the page")
        yield browser


@pytest.fixture(scope="module")
def recording(corpora, tmp_path_factory):
    """Two seconds of two people in noise."""
    speech = sorted((corpora / "LibriSpeech" / "test-clean").rglob("*.flac"))
    parts = [soundfile.read(path, 32000)[0] for path in (speech[0], speech[3])]
    parts.append(0.3 * soundfile.read(sorted((corpora / "wham_noise" / "tt").glob("*.wav"))[3], 32000)[0])
    path = tmp_path_factory.mktemp("recording") / "our meeting.wav"
    soundfile.write(path, sum(0.05 * part / part.std() for part in parts), 16000)
    return path


def find(browser, selector):
    """Elements of a CSS selector."""
    return browser.find_elements("css selector", selector)


def give(browser, path):
    """Drop a file on the page, in place of the one before."""
    for button in find(browser, "#file button[aria-label='Clear']"):
        browser.execute_script("arguments[0].click()", button)
    until(lambda: find(browser, "#file input[type=file]"), "the place for a file")
    find(browser, "#file input[type=file]")[0].send_keys(str(path))


def press(browser, name):
    """Press a button once it can be."""
    until(lambda: find(browser, f"#{name}")[0].is_enabled(), f"the button {name}")
    find(browser, f"#{name}")[0].click()


def status(browser):
    """What the page says."""
    return browser.find_element("css selector", "#status").text


def test_from_a_recording_to_its_sounds(browser, recording, served):
    give(browser, recording)
    until(lambda: "our meeting" in find(browser, "#file")[0].text, "the upload")
    press(browser, "separate")
    seen = set()
    until(lambda: seen.add(status(browser)) or "Done" in status(browser), "the separation")
    assert "Done: 2 people in 2.0 s" in status(browser) and len(seen) > 2, seen
    until(lambda: len(find(browser, ".sound audio")) == len(KINDS), "the players")

    sounds = {}
    for kind in KINDS:
        card = f"#sound-{kind}"
        until(lambda: browser.execute_script(f"return document.querySelector('{card} audio').readyState > 0"), "sound")
        duration = browser.execute_script(f"return document.querySelector('{card} audio').duration")
        assert duration == pytest.approx(2.0, abs=0.01)
        until(
            lambda: browser.execute_script(f"return document.querySelector('{card} img').naturalWidth > 500"), "image"
        )
        browser.execute_script("arguments[0].click()", find(browser, f"{card} button")[-1])
        path = browser.folder / "downloads" / f"our meeting_{kind}.wav"
        until(lambda: path.exists() and soundfile.info(path).frames == 32000, f"the download of {kind}")
        sounds[kind] = soundfile.read(path)[0]
    whole, quantum = soundfile.read(recording)[0], 2**-15
    np.testing.assert_allclose(sounds["recording"], whole, atol=2 * quantum)
    np.testing.assert_allclose(sounds["s1"] + sounds["s2"] + sounds["noise"], whole, atol=3 * quantum)
    assert min(sounds["s1"].std(), sounds["s2"].std()) > 0.1 * whole.std()


def test_cancel_ends_a_long_recording(browser, served, tmp_path):
    path = tmp_path / "long.flac"
    soundfile.write(path, np.zeros(16000 * 900), 16000)  # 15 minutes that take little room
    give(browser, path)
    until(lambda: "long" in find(browser, "#file")[0].text, "the upload")
    press(browser, "separate")
    until(lambda: "Separating: " in status(browser), "the separation")
    assert find(browser, "#status progress") and not find(browser, "#separate")[0].is_enabled()
    press(browser, "cancel")
    until(lambda: status(browser) == "Cancelled", "the end")
    until(lambda: find(browser, "#separate")[0].is_enabled(), "another go")
    assert not [name for name in served.files() if name.startswith("long_")]


def test_a_file_over_the_limit_is_refused(browser, served, tmp_path):
    path = tmp_path / "large.wav"
    soundfile.write(path, np.zeros(1_200_000), 16000)
    give(browser, path)
    until(lambda: "exceed the maximum allowed size" in browser.find_element("css selector", "body").text, "the refusal")
    assert "large.wav" not in served.files()


def test_what_is_no_sound_is_told_in_the_page(browser, tmp_path):
    path = tmp_path / "letter.wav"
    path.write_text("dear reader")
    give(browser, path)
    until(lambda: "letter" in find(browser, "#file")[0].text, "the upload")
    press(browser, "separate")
    until(lambda: find(browser, "#status .error"), "the error")
    assert status(browser) == "cannot read letter.wav as audio (Format not recognised)"


def test_nothing_is_asked_of_other_machines(browser, served, outside):
    """Runs behind the tests above, so it judges all that they did."""
    addresses = [urlsplit(address) for address in requested(browser)]
    asked = {address.netloc for address in addresses if address.scheme in ("http", "https", "ws", "wss")}
    assert asked == {f"127.0.0.1:{served.port}"}
    assert not find(browser, "link[rel~=preconnect], link[rel~=dns-prefetch]")
    hosts = {line.split()[1].split("://")[-1].split("/")[0].split(":")[0] for line in outside.asked if " " in line}
    assert not {host for host in hosts if not host.endswith(OWN) or host.startswith(FONTS)}


def test_it_listens_on_this_machine_alone_whatever_gradio_is_told(served):
    if not sys.platform.startswith("linux"):
        pytest.skip("needs Linux, where 127.0.0.2 is this machine too")
    socket.create_connection(("127.0.0.1", served.port), timeout=5).close()
    with pytest.raises(ConnectionRefusedError):  # who listens on all addresses answers here
        socket.create_connection(("127.0.0.2", served.port), timeout=5).close()


def test_closing_the_tab_and_ending_the_page_delete_all(browser, recording, served):
    give(browser, recording)
    until(lambda: "our meeting" in find(browser, "#file")[0].text, "the upload")
    press(browser, "separate")
    until(lambda: "Done" in status(browser), "the separation")
    assert "our meeting_s1.wav" in served.files()
    browser.get("about:blank")
    until(lambda: not [name for name in served.files() if "our meeting" in name], "the deletion")
    time.sleep(0.5)
    code, said = served.end(signal.SIGTERM)
    assert code == 0 and said == "unified-sess app: ended, uploads and results are deleted\n"
    assert served.files() == [] and not list(served.folder.iterdir())
