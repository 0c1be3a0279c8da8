"""One HTML page that holds all of an evaluation: tables, pictures and sounds, without another file."""

import base64
import io
from pathlib import Path

import jinja2
import numpy as np
import soundfile
from matplotlib.figure import Figure

from unified_sess.evaluation.plots import (
    distribution_figure,
    enhancement_figure,
    improvement_figure,
    read_train_log,
    spectrogram_figure,
    training_figure,
)
from unified_sess.evaluation.results import Results, read_results
from unified_sess.evaluation.tables import result_tables
from unified_sess.utils.audio import read_audio
from unified_sess.utils.figures import spectrogram
from unified_sess.utils.files import atomic_path
from unified_sess.utils.metric_names import HEADLINES, METRIC_NAMES, metric_label

REPORT_NAME = "report.html"
TEMPLATES = Path(__file__).with_name("templates")
EXAMPLE_COUNT = 3  # best, median, worst
PAUSE = 0.5  # s between two voices


def write_report(folder: str | Path, title: str | None = None, training_folder: str | Path | None = None) -> Path:
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
    Path
        The page: tables, pictures, and the best, the median and the worst example to listen to.

    Raises
    ------
    UserError
        When the folder holds no results.
    """
    folder = Path(folder)
    training = folder if training_folder is None else Path(training_folder)
    results = read_results(folder)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined
    )
    page = environment.get_template("report.html.j2").render(
        title=title or folder.resolve().name,
        heading=_heading(results),
        total=len(results),
        unit=results.details.get("unit", "mixtures"),
        headlines=HEADLINES,
        label=metric_label,
        meaning=lambda metric: METRIC_NAMES[metric].meaning if metric in METRIC_NAMES else "",
        summary=results.metric_summary(),
        note=_note(results),
        images={
            "improvement": _drawn(improvement_figure(results)),
            "enhancement": _drawn(enhancement_figure(results)),
            "distributions": _drawn(distribution_figure(results)),
            "training": _drawn(training_figure(read_train_log(training / "train_log.txt"))),
        },
        tables=result_tables(results),
        opening=_opening(results, folder),
        examples=_examples(results, folder),
        conflict=[_image(path.read_bytes(), path.stem) for path in sorted((training / "gradients").glob("*.png"))],
    )
    path = folder / REPORT_NAME
    with atomic_path(path) as temporary:
        Path(temporary).write_text(page + "\n", encoding="utf-8")
    return path


def _heading(results):
    parts = [f"{len(results)} test {results.details.get('unit', 'mixtures')}"]
    if results.details.get("speakers"):
        parts[0] += f" of {results.details['speakers']} speakers"
    if results.details.get("sample_rate"):
        parts.append(f"{results.details['sample_rate']} Hz")
    return ", ".join(parts)


def _note(results):
    speakers = results.speakers()
    unit = results.details.get("unit", "mixtures")
    if speakers is None:
        return f"Intervals: of new {unit}; who speaks is not known, so they are too narrow where {unit} share speakers."
    return f"Intervals: of new {unit} and speakers ({len(set().union(*speakers))} speak here)."


def _opening(results: Results, folder: Path) -> dict | None:
    """What the page opens with, the example of the median: the mixture, and each voice that was made of it in turn."""
    rows, names = _with_sounds(results)
    if not names:
        return None
    paths = _sound_files(rows[names[len(names) // 2]], folder / "audio")
    estimates = [path for name, path in paths.items() if name.endswith("_estimate")]
    if "mixture" not in paths or not estimates:
        return None
    mixture, rate = read_audio(paths["mixture"])
    pause = np.zeros(int(PAUSE * rate), mixture.dtype)
    voices = np.concatenate([part for path in estimates for part in (read_audio(path)[0], pause)][:-1])
    return {
        "mixture": _flac(mixture, rate),
        "voices": _flac(voices, rate),
        "made": "the voice" if len(estimates) == 1 else f"the {len(estimates)} voices, one after the other",
    }


def _with_sounds(results):
    """Rows by their names, and the names of those that were written as sound, from best to worst."""
    rows = {row["ID"]: row for row in results.rows}
    return rows, [name for name in results.details.get("examples", []) if name in rows]


def _sound_files(row, audio):
    """Sound files of an utterance: mixture, enhanced, s1_estimate, s1, ... to their paths."""
    return {p.stem[len(row["ID"]) + 1 :]: p for p in sorted(audio.glob("*.wav")) if p.stem.startswith(f"{row['ID']}_")}


def _examples(results: Results, folder: Path) -> list[dict]:
    """Best, median and worst utterance that have sounds: kind, id, said, sounds."""
    rows, names = _with_sounds(results)
    ranked = [names[0], names[len(names) // 2], names[-1]] if len(names) > EXAMPLE_COUNT else names
    kinds = {3: ("Best", "Median", "Worst"), 2: ("Best", "Worst")}.get(len(ranked), ("Example",))
    examples = [_example(kind, rows[name], folder / "audio") for kind, name in zip(kinds, ranked)]
    return [example for example in examples if example["sounds"]]


def _example(kind, row, audio):
    paths = _sound_files(row, audio)
    speakers = sum(name.endswith("_estimate") for name in paths)
    order = ["mixture", "enhanced"] + [f"s{k + 1}{end}" for k in range(speakers) for end in ("_estimate", "")]
    signals = {name: read_audio(paths[name]) for name in order if name in paths}
    loudest = max((spectrogram(*signal).max() for signal in signals.values()), default=0.0)
    known = [m for m in ("si_snri", "se_si_snri", "input_snr") if row.get(m) is not None]
    said = [f"{METRIC_NAMES[m].name} {row[m]:.1f} dB" for m in known] + ([row["genders"]] if row.get("genders") else [])
    sounds = [_sound(name, *signal, loudest) for name, signal in signals.items()]
    return {"kind": kind, "id": row["ID"], "said": ", ".join(said), "sounds": sounds}


def _sound(name: str, signal: np.ndarray, sample_rate: int, loudest: float) -> dict:
    if name in ("mixture", "enhanced"):
        caption = {"mixture": "Noisy mixture", "enhanced": "Enhanced mixture"}[name]
    else:
        number, _, estimate = name[1:].partition("_")
        caption = f"Speaker {number}, {'separated' if estimate else 'original'}"
    picture = _drawn(spectrogram_figure(signal, sample_rate, loudest), f"spectrogram: {caption}", dpi=90)
    return {"caption": caption, "image": picture, "uri": _flac(signal, sample_rate)}


def _flac(signal, sample_rate):
    buffer = io.BytesIO()
    soundfile.write(buffer, signal, sample_rate, format="FLAC")
    return _data_uri("audio/flac", buffer.getvalue())


def _drawn(figure: Figure | None, alt: str = "", dpi: int = 130) -> dict | None:
    if figure is None:
        return None
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=dpi, format="png")
    return _image(buffer.getvalue(), alt)


def _image(png: bytes, alt: str) -> dict:
    return {"alt": alt, "uri": _data_uri("image/png", png)}


def _data_uri(kind, content):
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
