"""One HTML page that holds all of an evaluation: tables, pictures and sounds, without another file."""

import base64
import html
import io
from pathlib import Path

import soundfile

from unified_sess.evaluation.plots import (
    distribution_figure,
    enhancement_figure,
    improvement_figure,
    read_train_log,
    spectrogram,
    spectrogram_figure,
    training_figure,
)
from unified_sess.evaluation.results import load_results
from unified_sess.evaluation.tables import GROUP_METRICS, LABELS, by_genders, by_input_snr, label
from unified_sess.utils.audio import read_audio
from unified_sess.utils.files import atomic_path

REPORT_NAME = "report.html"
EXAMPLES = 3  # best, median, worst

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1080px; margin: 2em auto; padding: 0 1em }
h1 { font-size: 1.6em; margin-bottom: 0 } h3 { margin-bottom: .3em }
h2 { margin-top: 2em; border-bottom: 1px solid #ddd }
table { border-collapse: collapse; margin: .5em 0 } td, th { padding: .2em .8em; border-bottom: 1px solid #eee }
th { text-align: left; background: #f6f6f6 } td.n, th.n { text-align: right; font-variant-numeric: tabular-nums }
td { vertical-align: top } td .note { white-space: nowrap }
td.i, .note { color: #666; font-size: .9em } img { max-width: 100%; display: block } figure { margin: .5em 0 }
.key { display: flex; gap: 2.5em; margin: 1em 0 } .key b { display: block; font-size: 1.9em; line-height: 1.2 }
.sounds { display: grid; grid-template-columns: 1fr 1fr; gap: .3em 1.5em } .sounds figure { min-width: 0 }
.sounds img { width: 100% }
audio { width: 100%; height: 32px } figcaption { font-weight: 600; font-size: .9em }
"""


def write_report(folder, title=None, training_folder=None):
    """Write `report.html` into a results folder, from what lies in it.

    Arguments
    ---------
    folder : str or Path
        With `test_results.csv`, and where they exist `test_results.json` and `audio/`.
    title : str
        By default the folder's name.
    training_folder : str or Path
        Where `train_log.txt` and `gradients/` of the training are; by default in the same folder.

    Returns
    -------
    path : Path
        The page: tables, pictures, and the best, the median and the worst example to listen to.

    Raises
    ------
    UserError
        When the folder holds no results.
    """
    folder = Path(folder)
    training = folder if training_folder is None else Path(training_folder)
    results = load_results(folder)
    title = title or folder.resolve().name
    sections = [_headline(results, title), _section("All metrics", _metric_table(results))]
    sections.append(_section("Separation against the input", _image(improvement_figure(results))))
    sections.append(_section("Enhanced mixture, before and after", _image(enhancement_figure(results), 520)))
    sections.append(_section("Distributions", _image(distribution_figure(results))))
    sections.append(_section("By input SNR", _group_table(results, by_input_snr(results), "input SNR")))
    sections.append(_section("By gender of the speakers", _group_table(results, by_genders(results), "speakers")))
    sections.append(_section("Examples", _examples(results, folder)))
    sections.append(_section("Training", _image(training_figure(read_train_log(training / "train_log.txt")))))
    pictures = [_picture(path.read_bytes(), path.stem) for path in sorted((training / "gradients").glob("*.png"))]
    sections.append(_section("Conflict of the two gradients", "".join(pictures)))
    page = (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{STYLE}</style></head><body>\n{''.join(sections)}</body></html>\n"
    )
    path = folder / REPORT_NAME
    with atomic_path(path) as temporary:
        Path(temporary).write_text(page, encoding="utf-8")
    return path


def _section(title, content):
    return f"<h2>{title}</h2>\n{content}\n" if content else ""


def _headline(results, title):
    means = results.means()
    numbers = "".join(
        f"<div><b>{means[m]:.2f}</b>{label(m)}</div>"
        for m in ("si_snri", "sdri", "se_si_snri", "estoi", "pesq")
        if means.get(m) is not None
    )
    rate = results.details.get("sample_rate")
    said = f"{len(results)} test mixtures"
    said += f" of {results.details['speakers']} speakers" if results.details.get("speakers") else ""
    said += f", {rate} Hz" if rate else ""
    return (
        f'<h1>Evaluation: {html.escape(title)}</h1><div class="note">{said}</div>\n<div class="key">{numbers}</div>\n'
    )


def _metric_table(results):
    summary = results.metric_summary()
    head = _row(["metric", "of", "mean", "95 % interval", "utterances", "undefined"], "th", numeric=(2, 4))
    rows = []
    for metric, entry in summary.items():
        reasons = "; ".join(f"{count}: {html.escape(reason)}" for reason, count in entry["undefined"].items()) or "none"
        meaning = LABELS.get(metric, ("", "", ""))[2]
        cells = [
            label(metric),
            meaning,
            _number(entry["mean"]),
            _interval(entry["interval_95"]),
            entry["count"],
            reasons,
        ]
        rows.append(_row(cells, "td", numeric=(2, 4), faint=(1, 3, 5)))
    note = '<p class="note">Intervals: percentile bootstrap over utterances. Means leave out what is undefined.</p>'
    return f"<table>{head}{''.join(rows)}</table>{note}"


def _group_table(results, groups, what):
    if not groups:
        return ""
    metrics = [m for m in GROUP_METRICS if m in results.metrics]
    rows = [_row([what, "utterances", *(label(m) for m in metrics)], "th", numeric=range(1, 9))]
    for group in groups:
        cells = [
            f'{_number(e["mean"])}<br><span class="note">{_interval(e["interval_95"])}</span>'
            for e in (group.metrics[m] for m in metrics)
        ]
        rows.append(_row([group.name, group.count, *cells], "td", numeric=range(1, 9)))
    return f"<table>{''.join(rows)}</table>"


def _row(cells, tag, numeric=(), faint=()):
    kinds = ["n" if k in numeric else "i" if k in faint else "" for k in range(len(cells))]
    return "<tr>" + "".join(f'<{tag} class="{kind}">{cell}</{tag}>' for kind, cell in zip(kinds, cells)) + "</tr>\n"


def _number(value):
    return "–" if value is None else f"{value:.2f}"


def _interval(ends):
    return "" if None in ends else f"[{ends[0]:.2f}, {ends[1]:.2f}]"


def _examples(results, folder):
    rows = {row["ID"]: row for row in results.rows}
    names = [name for name in results.details.get("examples", []) if name in rows]
    if not names:
        return ""
    ranked = [names[0], names[len(names) // 2], names[-1]] if len(names) > EXAMPLES else names
    titles = {3: ("Best", "Median", "Worst"), 2: ("Best", "Worst")}.get(len(ranked), ("Example",))
    return "".join(_example(kind, rows[name], folder / "audio") for kind, name in zip(titles, ranked))


def _example(kind, row, audio):
    paths = {p.stem[len(row["ID"]) + 1 :]: p for p in sorted(audio.glob("*.wav")) if p.stem.startswith(f"{row['ID']}_")}
    speakers = sum(name.endswith("_estimate") for name in paths)
    order = ["mixture", "enhanced"] + [f"s{k + 1}{end}" for k in range(speakers) for end in ("_estimate", "")]
    signals = {name: read_audio(paths[name]) for name in order if name in paths}
    if not signals:
        return ""
    loudest = max(spectrogram(*signal).max() for signal in signals.values())
    cards = "".join(_sound(name, *signal, loudest) for name, signal in signals.items())
    known = [m for m in ("si_snri", "se_si_snri", "input_snr") if row.get(m) is not None]
    said = ", ".join(f"{LABELS[m][0]} {row[m]:.1f} dB" for m in known)
    said += f", {row['genders']}" if row.get("genders") else ""
    return f'<h3>{kind}: {html.escape(row["ID"])}</h3><div class="note">{said}</div><div class="sounds">{cards}</div>\n'


def _sound(name, signal, sample_rate, loudest):
    words = name.replace("_estimate", ", separated")
    words = {"mixture": "Noisy mixture", "enhanced": "Enhanced mixture"}.get(name, f"Speaker {words[1:]}")
    words += "" if name in ("mixture", "enhanced") or name.endswith("_estimate") else ", original"
    buffer = io.BytesIO()
    soundfile.write(buffer, signal, sample_rate, format="FLAC")
    picture = _image(spectrogram_figure(signal, sample_rate, loudest), alt=f"spectrogram: {words}", dpi=90)
    player = f'<audio controls preload="metadata" src="{_data_uri("audio/flac", buffer.getvalue())}"></audio>'
    return f"<figure><figcaption>{words}</figcaption>{picture}{player}</figure>\n"


def _image(figure, width=None, alt="", dpi=130):
    if figure is None:
        return ""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=dpi, format="png")
    return _picture(buffer.getvalue(), alt, width)


def _picture(png, alt, width=None):
    size = f' width="{width}"' if width else ""
    return f'<img alt="{html.escape(alt)}"{size} src="{_data_uri("image/png", png)}">'


def _data_uri(kind, content):
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
