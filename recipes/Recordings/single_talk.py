#!/usr/bin/env python3
"""On which track people are who talk alone, in a real recording of which an RTTM file says who talks when.

    unified-sess separate meeting.wav --output-dir separated
    python recipes/Recordings/single_talk.py meeting.rttm separated/meeting_s1.wav separated/meeting_s2.wav

Judges the two people who talk most, in frames of 0.25 s in which one of them talks and nobody else does: on the right
track is a voice that is 6 dB louder there than on the other one, on the wrong track one that is 6 dB louder on the other.
"""

import argparse
from pathlib import Path

import numpy as np

from unified_sess.evaluation.conversations import FRAME, SingleTalk, quarter_powers, track_of_voice
from unified_sess.evaluation.signals import Undefined
from unified_sess.utils.audio import read_audio
from unified_sess.utils.errors import UserError, one_line_errors


def main() -> None:
    """Read the command line and the files, print a line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rttm", type=Path, help="who talks when")
    parser.add_argument(
        "tracks", nargs="+", type=Path, help="one or two separated tracks; beside one lies a silent one"
    )
    parser.add_argument("--name", help="of the recording in the RTTM file; default: that of the tracks without _s1")
    options = parser.parse_args()
    with one_line_errors("single_talk.py"):
        if len(options.tracks) > 2:
            raise UserError("give one or two tracks")
        signals, rates = zip(*(read_audio(path, channel="mean") for path in options.tracks), strict=True)
        if len(set(rates)) > 1 or len({len(signal) for signal in signals}) > 1:
            raise UserError("the two tracks have another rate or length than each other: give those of one recording")
        tracks = np.stack(signals, axis=1)
        tracks = np.pad(tracks, ((0, 0), (0, 2 - tracks.shape[1])))
        name = options.name or options.tracks[0].stem.rpartition("_")[0]
        talker = who_talks_alone(options.rttm, name, len(quarter_powers(tracks, rates[0])))
        try:
            found = on_tracks(talker, tracks, rates[0])
        except Undefined as undefined:
            raise UserError(f"{options.rttm}: {undefined}") from None
        print(f"{name}: {100 * found.right:.1f} % right, {100 * found.wrong:.1f} % wrong of {found.seconds:g} s")


def who_talks_alone(table: Path, name: str, frames: int) -> np.ndarray:
    """The number, 0 or 1, of the one of the two main people who talks alone in each frame of 0.25 s, else -1, `[frames]`.

    Raises `UserError` where the RTTM file has no two people for the recording `name`.
    """
    turns: dict[str, list[tuple[float, float]]] = {}
    try:
        for words in map(str.split, table.read_text(encoding="utf-8").splitlines()):
            if len(words) > 7 and words[0] == "SPEAKER" and words[1] == name:
                turns.setdefault(words[7], []).append((float(words[3]), float(words[4])))
    except (OSError, ValueError) as error:
        raise UserError(f"{table} is no RTTM file, or cannot be read: {error}") from None
    main_people = sorted(turns, key=lambda person: -sum(length for _, length in turns[person]))[:2]
    if len(main_people) < 2:
        raise UserError(f"{table} has {len(turns)} people for {name}: two or more are needed")
    starts = np.arange(frames) * FRAME
    whole = {person: np.zeros(len(starts), bool) for person in turns}  # talks all the frame
    partly = {person: np.zeros(len(starts), bool) for person in turns}
    for person, stretches in turns.items():
        for start, length in stretches:
            whole[person] |= (starts >= start) & (starts + FRAME <= start + length)
            partly[person] |= (starts + FRAME > start) & (starts < start + length)
    talker = np.full(len(starts), -1)
    for number, person in enumerate(main_people):
        others = sum(partly[other] for other in turns if other != person)
        talker[whole[person] & (others == 0)] = number
    return talker


def on_tracks(talker: np.ndarray, tracks: np.ndarray, sample_rate: int) -> SingleTalk:
    """Right and wrong shares, the two tracks `[time, 2]` given to the people as fits best."""
    return max(
        (track_of_voice(talker, tracks, order, sample_rate) for order in ([0, 1], [1, 0])),
        key=lambda result: result.right - result.wrong,
    )


if __name__ == "__main__":
    main()
