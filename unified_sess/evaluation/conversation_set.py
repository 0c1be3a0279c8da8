"""Measure a model on a test set of conversations: whole recordings, separated as `unified-sess separate` does.

The set has LibriMix's folders, and a table of who talks where::

    Conversations/wav8k/test/conversations.csv    id,people,room,speaker_1,speaker_2,speaker_3
    Conversations/wav8k/test/mix_both/ID.wav      the recording
    Conversations/wav8k/test/s1/ID.wav, ...       direct path of each person, the whole recording long
    Conversations/wav8k/test/reverberant/s1/ID.wav, ...  reverberant image; without it the direct path
"""

import csv
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from unified_sess.evaluation.conversations import METRICS, conversation_metrics
from unified_sess.evaluation.examples import remove_examples
from unified_sess.evaluation.partial import Partial
from unified_sess.evaluation.rates import resampled
from unified_sess.evaluation.report import write_report
from unified_sess.evaluation.results import Results
from unified_sess.evaluation.tables import result_tables
from unified_sess.inference.voices.evidence import voices_digest
from unified_sess.inference.voices.speakers import SpeakerNetwork
from unified_sess.utils.audio import read_audio
from unified_sess.utils.errors import UserError, writable_folder

if TYPE_CHECKING:
    from unified_sess.inference.separation import UnifiedSeparation  # takes seconds

TABLE = "conversations.csv"
FOLDERS = {"test": ("test",), "valid": ("dev", "valid"), "train": ("train",)}
PARTIAL_NAME = "test_results.partial"


class ConversationRow(NamedTuple):
    """A recording of the set: `people` that talk, `room` (`dry` or `room`), names of the `speakers`."""

    id: str
    folder: Path
    people: int
    room: str
    speakers: tuple[str, ...]

    @property
    def mixture(self) -> Path:
        """File of the recording."""
        return self.folder / "mix_both" / f"{self.id}.wav"

    def signals(self, sample_rate: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mixture `[time]`, direct paths and reverberant images `[time, people]`.

        Raises
        ------
        UserError
            Naming the file that cannot be read or is not as long as the recording.
        """
        mixture, _ = read_audio(self.mixture, sample_rate=sample_rate)
        direct, images = [], []
        for number in range(1, self.people + 1):
            dry = self.folder / f"s{number}" / f"{self.id}.wav"
            image = self.folder / "reverberant" / f"s{number}" / f"{self.id}.wav"
            direct.append(_as_long(mixture, dry, sample_rate))
            images.append(_as_long(mixture, image, sample_rate) if image.exists() else direct[-1])
        return mixture, np.stack(direct, 1), np.stack(images, 1)


def find_conversations(data_folder: str | Path, sample_rate: int, part: str = "test") -> Path | None:
    """Folder of a part of a conversation set, None where the data folder holds none.

    Raises
    ------
    UserError
        When the set is there at other rates only, or without that part.
    """
    root = Path(data_folder)
    if (root / TABLE).is_file():
        return root
    there = sorted(
        {table.parent.parent for table in root.glob(f"*/{TABLE}")}
        | {t.parents[1] for t in root.glob(f"wav*k/*/{TABLE}")}
    )
    if not there:
        return None
    right = [
        folder for folder in there if not folder.name.startswith("wav") or folder.name == f"wav{sample_rate // 1000}k"
    ]
    if not right:
        names = ", ".join(folder.name for folder in there)
        raise UserError(
            f"{root} holds conversations in {names} and the model takes {sample_rate} Hz: make them at its rate"
        )
    for folder in right:
        for name in FOLDERS[part]:
            if (folder / name / TABLE).is_file():
                return folder / name
    raise UserError(f"{right[0]} has no {' or '.join(FOLDERS[part])} part with a {TABLE}")


def read_conversations(folder: str | Path) -> list[ConversationRow]:
    """The recordings of a part.

    Raises
    ------
    UserError
        Naming the table that is empty or lacks a column.
    """
    path = Path(folder) / TABLE
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = [
                ConversationRow(
                    row["id"],
                    Path(folder),
                    int(row["people"]),
                    row["room"],
                    tuple(row[name] for name in sorted(row) if name and name.startswith("speaker_") and row[name]),
                )
                for row in csv.DictReader(file)
            ]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is no table of conversations ({error}): it needs id, people and room") from None
    if not rows:
        raise UserError(f"{path} lists no conversations: make the set again")
    return rows


def evaluate_conversations(
    separation: "UnifiedSeparation",
    rows: list[ConversationRow],
    output_folder: str | Path,
    limit: int | None = None,
    progress: bool = True,
    title: str | None = None,
    training_folder: str | Path | None = None,
    sample_rate: int | None = None,
    passes: int = 1,
    voices: SpeakerNetwork | None = None,
) -> Results:
    """Separate and measure every recording; write `test_results.csv`, `test_results.json` and `report.html`.

    What is finished is kept in `test_results.partial`: after a kill, the same call goes on behind it.

    Arguments
    ---------
    separation : UnifiedSeparation
        Its `separate_file` is what is measured: windows, tracks and scale as for any recording.
    rows : list of ConversationRow
        Of `read_conversations`.
    output_folder, limit, progress, title, training_folder
        As in `evaluate_network`.
    sample_rate : int
        Of the set, in Hz; None is that of the model.
    passes : int
        At how many speeds every recording is separated, see `InPasses`.
    voices : SpeakerNetwork
        Recognises voices in the place of the network that ships; None takes that.
    """
    rows = rows[:limit]
    output_folder = Path(writable_folder(output_folder))
    rate = sample_rate or separation.sample_rate
    threshold = getattr(separation.config, "silence_threshold", None)
    partial = Partial(output_folder / PARTIAL_NAME, _fingerprint(separation, rows, passes, voices))
    waiting = [row for row in rows if row.id not in partial.done]
    bar = tqdm(total=len(rows), initial=len(rows) - len(waiting), desc="Evaluating conversations", disable=not progress)
    with partial, bar:
        for row in waiting:
            mixture, direct, images = row.signals(rate)
            tracks = separation.separate_file(row.mixture, passes=passes, voices=voices)[0].numpy()
            if rate != separation.sample_rate:
                tracks = resampled(tracks, separation.sample_rate, rate, len(mixture))
            partial.add({"ID": row.id} | conversation_metrics(mixture, direct, images, tracks, rate, threshold))
            bar.update()
    measured = [partial.done[row.id] | _labels(row) for row in rows]
    metrics = [name for name in METRICS if any(row[name] is not None for row in measured)]
    results = Results(measured, metrics, {"sample_rate": rate, "unit": "conversations"})
    results.details["groups"] = {name: [g._asdict() for g in table] for name, table in result_tables(results).items()}
    remove_examples(output_folder)  # of mixtures that were measured here before
    results.save(output_folder)
    write_report(output_folder, title, training_folder)
    partial.path.unlink(missing_ok=True)
    return results


def conversation_lines(results: Results) -> list[str]:
    """What the command says at its end, for all recordings and for each kind."""
    groups = [("all", len(results), results.metric_summary())]
    groups += [group for table in result_tables(results).values() for group in table]
    lines = []
    for name, count, metrics in groups:
        means = {metric: entry["mean"] for metric, entry in metrics.items() if entry["mean"] is not None}
        said = [f"SI-SDRi {means['si_snri']:.2f} dB"] if "si_snri" in means else []
        if "right_track" in means:
            said.append(f"single talk {means['right_track']:.0f} % right, {means['wrong_track']:.0f} % wrong")
        said += [f"diarisation error {means['der']:.1f} %"] if "der" in means else []
        said += [f"number of people right in {means['people_right']:.0f} %"] if "people_right" in means else []
        lines.append(f"{name}, {count} conversation{'s' * (count != 1)}: {', '.join(said)}")
    return lines


def _as_long(mixture, path, sample_rate):
    signal, _ = read_audio(path, sample_rate=sample_rate)
    if len(signal) != len(mixture):
        raise UserError(f"{path} has {len(signal)} samples where its recording has {len(mixture)}: make the set again")
    return signal


def _labels(row):
    people = f"{row.people} {'person' if row.people == 1 else 'people'}"
    return {"people": people, "room": row.room, "speakers": " ".join(row.speakers)}


def _fingerprint(separation, rows, passes, voices):
    """What the measures depend on; None, which keeps nothing, where the weights are not known."""
    if not isinstance(separation, torch.nn.Module):
        return None
    files = [
        (row.id, row.people, str(row.mixture), row.mixture.stat().st_mtime_ns) for row in rows if row.mixture.exists()
    ]
    digest = hashlib.sha256(json.dumps([*files, passes, voices_digest(voices)]).encode())
    for name, tensor in sorted(separation.mods.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
