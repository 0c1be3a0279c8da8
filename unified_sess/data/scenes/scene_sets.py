"""Sets of scenes on disk: mixtures in rooms in LibriMix's layout, and conversations with a table of who talks."""

import csv
import functools
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from unified_sess.data import mixing
from unified_sess.data.dynamic_mixing import DynamicMixingDataset
from unified_sess.data.own_folders.held_out import fingerprint
from unified_sess.data.scenes.scene import Scene
from unified_sess.utils.audio import write_audio
from unified_sess.utils.errors import UserError
from unified_sess.utils.parallel import parallel_map

RATE = 16000  # Hz at which scenes are drawn; lower rates are made of them
MADE_FROM = "made_from.json"
TABLE = "conversations.csv"
ROOM_SECONDS = (4.0, 8.0)
ROOM_COUNT = 300  # rooms of each part
ROOMS: dict[str, object] = {"rooms": 1.0}
CONVERSATIONS: dict[str, object] = {
    "turns": 1.0,
    "turn_seconds": [1.0, 4.0],
    "overlap": [0.0, 0.5],
    "backchannels": 0.2,
    "level_difference": 6.0,
    "noise_snr": [5.0, 20.0],
}


class ScenePart(NamedTuple):
    """What a part of a set is drawn from, and what is drawn.

    speech, noise : folders.
    room_seed : no other part may have these rooms.
    counts : mixtures; of conversations, those with 2 and those with 3 people, half of them in rooms.
    """

    speech: Path
    noise: Path
    room_seed: int
    counts: tuple[int, ...]


class _Item(NamedTuple):
    number: int
    name: str
    dataset: str
    seconds: float


def make_rooms(folder: Path, parts: dict[str, ScenePart], rates: Sequence[int], cache: Path, workers: int) -> Path:
    """Two people who speak throughout in a room, at LibriMix's levels: `folder/wav8k/min/PART/{mix_both,mix_clean,s1,s2}`.

    The sources are direct paths as loud as the mixture holds them; `mix_clean` is their sum. Utterances come again in
    other rooms, at other levels.

    Arguments
    ---------
    folder : Path
        Appears whole or not at all.
    parts : dict
        Name of the part's folder, such as `train-100`, to what it is drawn from.
    rates : sequence of int
        16000 and what it can be divided to, in Hz.
    cache : Path
        Keeps measures of the files and simulated rooms.
    workers : int
        Processes.

    Raises
    ------
    UserError
        When the folder was made of other recordings, or a file cannot be written.
    """

    def datasets(part: ScenePart) -> dict[str, DynamicMixingDataset]:
        return {"": _dataset(part, ROOMS, 2, cache, workers)}

    def items(part: ScenePart) -> list[_Item]:
        lengths = np.random.default_rng(part.room_seed).uniform(*ROOM_SECONDS, part.counts[0])
        return [_Item(number, "{people}_{number}", "", float(seconds)) for number, seconds in enumerate(lengths)]

    columns = ["id", "rt60", "distance_1", "distance_2"]
    return _make(folder, parts, "wav{k}k/min/{part}", rates, workers, datasets, items, "rooms.csv", columns)


def make_conversations(
    folder: Path, parts: dict[str, ScenePart], rates: Sequence[int], cache: Path, workers: int, seconds: float = 120.0
) -> Path:
    """Conversations of two and of three people, half of them in rooms: `folder/wav8k/PART/{mix_both,s1,...,noise}`.

    `reverberant/s1`, ... hold the reverberant images, where these are not the direct paths, and
    `conversations.csv` says who talks. Turns of 1 to 4 s are cut at pauses; utterances come again at other levels.
    Arguments and errors as in `make_rooms`; `seconds` is the length of a conversation.
    """

    def datasets(part: ScenePart) -> dict[str, DynamicMixingDataset]:
        return {
            f"{place}-{people}": _dataset(
                part, CONVERSATIONS | {"rooms": float(place == "room")}, people, cache, workers
            )
            for people, count in zip((2, 3), part.counts, strict=True)
            for place in ("dry", "room")
            if count
        }

    def items(part: ScenePart) -> list[_Item]:
        kinds = [
            f"{place}-{people}"
            for people, count in zip((2, 3), part.counts, strict=True)
            for place, share in (("dry", count - count // 2), ("room", count // 2))
            for _ in range(share)
        ]
        return [_Item(number, f"{kind}_{number:02}", kind, seconds) for number, kind in enumerate(kinds)]

    columns = ["id", "people", "room", "speaker_1", "speaker_2", "speaker_3", "rt60", "snr", "overlap", "silence"]
    return _make(folder, parts, "wav{k}k/{part}", rates, workers, datasets, items, TABLE, columns)


def _dataset(part: ScenePart, scenes: dict, people: int, cache: Path, workers: int) -> DynamicMixingDataset:
    return DynamicMixingDataset(
        part.speech,
        part.noise,
        cache,
        RATE,
        people,
        seed=part.room_seed,
        speed_factors=None,
        workers=workers,
        scenes=scenes | {"room_seed": part.room_seed, "room_count": ROOM_COUNT},
    )


def _make(
    folder: Path,
    parts: dict[str, ScenePart],
    layout: str,
    rates: Sequence[int],
    workers: int,
    datasets: Callable[[ScenePart], dict[str, DynamicMixingDataset]],
    items: Callable[[ScenePart], list[_Item]],
    table: str,
    columns: list[str],
) -> Path:
    for rate in rates:
        if RATE % rate:
            raise UserError(f"scenes are made at {RATE} Hz, which cannot be divided to {rate} Hz")
    drawn = {name: (datasets(part), items(part)) for name, part in parts.items()}
    made_from = _made_from(drawn, rates)
    if folder.is_dir():
        record = folder / MADE_FROM
        if not record.is_file() or record.read_text(encoding="utf-8") != made_from:
            raise UserError(
                f"{folder} was made from other recordings or settings: give another --output, or delete it to make it again"
            )
        return folder
    making = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(making, ignore_errors=True)  # of a run that was killed
    try:
        for name, (sources, wanted) in drawn.items():
            places = {rate: making / layout.format(k=rate // 1000, part=name) for rate in rates}
            job = functools.partial(_write, sources, places)
            rows = list(parallel_map(job, wanted, workers, f"{folder.name} {name}"))
            for place in places.values():
                with open(place / table, "w", encoding="utf-8", newline="") as file:
                    writer = csv.DictWriter(file, columns, restval="", extrasaction="ignore")
                    writer.writeheader()
                    writer.writerows(rows)
        (making / MADE_FROM).write_text(made_from, encoding="utf-8")
        os.replace(making, folder)
    except BaseException:
        shutil.rmtree(making, ignore_errors=True)
        raise
    return folder


def _made_from(drawn: dict, rates: Sequence[int]) -> str:
    """Everything that the set is a function of, as text."""
    parts = {
        name: [{kind: fingerprint(dataset) for kind, dataset in sources.items()}, items]
        for name, (sources, items) in drawn.items()
    }
    return hashlib.sha256(json.dumps([parts, list(rates)]).encode()).hexdigest()


def _write(datasets: dict[str, DynamicMixingDataset], places: dict[int, Path], item: _Item) -> dict:
    """Render and write a scene; return its row of the table."""
    scene = datasets[item.dataset].scene((0, item.number, round(item.seconds * RATE)), running=False)
    people = [Path(name).stem for name in scene.names]
    name = item.name.format(people="_".join(people), number=item.number)
    signals = {f"s{k + 1}": scene.sources[:, k] for k in range(len(people))} | {"mix_both": scene.mixture}
    if item.dataset:
        signals["noise"] = scene.noise
        if scene.responses is not None and scene.images is not None:
            signals |= {f"reverberant/s{k + 1}": scene.images[:, k] for k in range(len(people))}
    else:
        signals["mix_clean"] = scene.sources.sum(1)
    for rate, place in places.items():
        for kind, signal in signals.items():
            path = place / kind / f"{name}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_audio(path, mixing.decimate(np.ascontiguousarray(signal), RATE // rate), rate)
    return {"id": name} | _row(scene, people)


def _row(scene: Scene, people: list[str]) -> dict:
    responses = scene.responses or []
    row: dict[str, object] = {"people": len(people), "room": "room" if responses else "dry"}
    row |= {f"speaker_{k + 1}": name.split("-")[0] for k, name in enumerate(people)}
    row |= {f"distance_{k + 1}": round(response.distance, 2) for k, response in enumerate(responses)}
    if responses:
        row["rt60"] = round(float(np.mean([response.rt60 for response in responses])), 3)
    if scene.snr is not None:
        row["snr"] = round(scene.snr, 1)
    if scene.pieces:
        talking = np.zeros((len(people), len(scene.mixture) // (RATE // 100)), bool)  # frames of 10 ms
        for piece in scene.pieces:
            talking[piece.person, max(0, round(piece.at * 100)) : round(piece.until * 100)] = True
        count = talking.sum(0)
        row["overlap"] = round(float((count > 1).sum() / max(1, (count > 0).sum())), 3)
        row["silence"] = round(float((count == 0).mean()), 3)
    return row
