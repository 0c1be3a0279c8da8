"""The report: one page that needs no other file."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import soundfile

from unified_sess.evaluation.plots import read_train_log
from unified_sess.evaluation.report import write_report
from unified_sess.evaluation.results import Results
from unified_sess.utils.errors import UserError
from unified_sess.utils.figures import spectrogram

LOG = """epoch: 1, lr: 1.00e-03, optimizer_steps: 3 - train loss_ss: 27.08, train conflict_rate: 7.39e-01 - valid loss_ss: 19.81, valid si_snri: -1.92e+01
epoch: 2, lr: 5.10e-04, optimizer_steps: 6 - train loss_ss: 18.42, train conflict_rate: 7.68e-01 - valid loss_ss: 17.05, valid si_snri: -1.64e+01
"""
KEYS = ("mixture", "enhanced", "s1_estimate", "s2_estimate", "s1", "s2")


def write_results(folder, count=12, examples=3):
    generator = np.random.default_rng(0)
    rows = [
        {
            "ID": f"<u{k}>",
            "si_snr": 5.0 + k,
            "si_snri": 8.0 + k,
            "input_snr": float(k),
            "genders": "FM" if k % 2 else "MM",
        }
        | {"se_si_snr": 9.0, "se_si_snr_noisy": None, "reasons": {"se_si_snr_noisy": "no noise"}}
        for k in range(count)
    ]
    metrics = ["si_snr", "si_snri", "input_snr", "se_si_snr", "se_si_snr_noisy"]
    names = [f"<u{k}>" for k in (count - 1, count // 2, 0)][:examples]
    folder.mkdir(exist_ok=True)
    Results(rows, metrics, {"examples": names, "sample_rate": 8000, "speakers": 2}).save(folder)
    (folder / "audio").mkdir()
    for name in names:
        for key in KEYS:
            soundfile.write(folder / "audio" / f"{name}_{key}.wav", 0.1 * generator.standard_normal(4000), 8000)
    return folder


class Page(HTMLParser):
    """Tags with their attributes, and whether every opened tag was closed."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.open = [], []
        self.text = path.read_text(encoding="utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def headings(self):
        return re.findall("<h2>(.*?)</h2>", self.text)


def sounds_of(page):
    """What each player of the page plays, `[time]`."""
    players = [attributes["src"] for tag, attributes in page.tags if tag == "audio"]
    return [soundfile.read(io.BytesIO(base64.b64decode(source.split(",")[1])))[0] for source in players]


def test_the_page_holds_everything_itself(tmp_path):
    folder = write_results(tmp_path / "out")
    (folder / "train_log.txt").write_text(LOG, encoding="utf-8")
    (folder / "gradients").mkdir()
    picture = b"\x89PNG\r\n\x1a\n-conflict-"
    (folder / "gradients" / "conflict_rate.png").write_bytes(picture)
    page = Page(write_report(folder, title="A & B"))
    assert not page.open
    sources = [attributes["src"] for _, attributes in page.tags if "src" in attributes]
    assert sources and all(source.startswith("data:") for source in sources)
    assert "http" not in re.sub('src="[^"]*"', "", page.text)
    assert base64.b64encode(picture).decode() in page.text
    assert "Training" in page.headings() and "Conflict of the two gradients" in page.headings()
    assert "A &amp; B" in page.text and "<u0>" not in page.text and "&lt;u0&gt;" in page.text


def test_the_players_hold_the_sounds_sample_by_sample(tmp_path):
    folder = write_results(tmp_path / "out")
    page = Page(write_report(folder))
    players = sounds_of(page)
    assert len(players) == 2 + 3 * len(KEYS)  # the two that the page opens with come first
    expected = soundfile.read(folder / "audio" / "<u11>_mixture.wav")[0]
    np.testing.assert_array_equal(players[2], expected)
    assert [m for m in re.findall("<h3>(.*?):", page.text)] == ["Best", "Median", "Worst"]


def test_the_page_opens_with_a_mixture_and_the_voices_made_of_it_in_turn(tmp_path):
    folder = write_results(tmp_path / "out")
    page = Page(write_report(folder))
    mixture, made = sounds_of(page)[:2]
    median = re.findall("<h3>Median: (.*?)</h3>", page.text)[0].replace("&lt;", "<").replace("&gt;", ">")
    read = {key: soundfile.read(folder / "audio" / f"{median}_{key}.wav")[0] for key in KEYS}
    np.testing.assert_array_equal(mixture, read["mixture"])
    pause = np.zeros(len(made) - len(read["s1_estimate"]) - len(read["s2_estimate"]))
    np.testing.assert_array_equal(made, np.concatenate([read["s1_estimate"], pause, read["s2_estimate"]]))
    assert page.text.index("<audio") < page.text.index("<h2>")


def test_the_page_is_a_function_of_the_folder(tmp_path):
    folder = write_results(tmp_path / "out", examples=1)
    assert write_report(folder).read_bytes() == write_report(folder).read_bytes()


def test_what_is_not_there_has_no_section(tmp_path):
    folder = write_results(tmp_path / "out", count=1, examples=0)
    headings = Page(write_report(folder)).headings()
    assert "All metrics" in headings
    assert not {"Training", "Examples", "Conflict of the two gradients", "Enhanced mixture, before and after"} & set(
        headings
    )


def test_undefined_values_are_counted_on_the_page(tmp_path):
    assert "12: no noise" in Page(write_report(write_results(tmp_path / "out", examples=0))).text


def test_the_heading_does_not_count_mixtures_whose_metric_is_undefined(tmp_path):
    rows = [{"ID": str(k), "si_snri": 8.0 if k else None, "sdri": 9.0, "genders": "FM"} for k in range(5)]
    Results(rows, ["si_snri", "sdri"]).save(tmp_path)
    text = re.sub(r"\s+", " ", Page(write_report(tmp_path)).text)
    assert re.search(r"<b>8.00</b>SI-SNRi \(dB\)<br><span class=.note.>of 4 of the 5</span>", text)
    assert re.search(r"<b>9.00</b>SDRi \(dB\)</div>", text)
    group = text[text.index("By gender") :]
    assert re.search(r'<td class="n">5</td> <td class="n">8.00<br><span class="note">\[8.00, 8.00\] of 4</span>', group)


def test_a_folder_without_results_is_named(tmp_path):
    with pytest.raises(UserError, match="holds no test_results.csv"):
        write_report(tmp_path)


def test_curves_of_a_log_with_a_lacking_value(tmp_path):
    (tmp_path / "log").write_text(
        LOG + "epoch: 3, lr: 2.0e-04 - train loss_ss: 17.0 - valid loss_ss: nan\n", encoding="utf-8"
    )
    curves = read_train_log(tmp_path / "log")
    np.testing.assert_array_equal(curves["epoch"], [1, 2, 3])
    np.testing.assert_array_equal(curves["valid si_snri"], [-19.2, -16.4, np.nan])
    assert curves["lr"][1] == 5.1e-4
    assert read_train_log(tmp_path / "none") == {}


def test_the_spectrogram_of_a_tone_peaks_at_its_frequency():
    tone = np.sin(2 * np.pi * 1000 * np.arange(8000) / 8000)
    level = spectrogram(tone, 8000)
    assert level.mean(1).argmax() * 4000 / (level.shape[0] - 1) == pytest.approx(1000, abs=32)
