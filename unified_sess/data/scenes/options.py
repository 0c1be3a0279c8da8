"""The options of scenes, checked."""

import dataclasses
import difflib
import math
from typing import Any

from unified_sess.utils.errors import UserError


@dataclasses.dataclass(frozen=True)
class SceneOptions:
    """What scenes are drawn from; the defaults switch everything off.

    Arguments
    ---------
    active : sequence of float
        Chances that 0, 1, 2, ... people speak; None lets all of them.
    rooms : float
        Share of the scenes in a room.
    room_count : int
        Rooms to simulate, once.
    room_seed : int
        Another one simulates other rooms.
    rt60 : tuple of float
        Range of the reverberation time in s.
    measured_rooms : str
        Folder of recorded impulse responses; None for none.
    measured_share : float
        Share of the rooms that are recorded ones.
    early_target : bool
        The target holds the first 50 ms of the response, not the direct path alone.
    turns : float
        Share of the scenes in which people take turns; in the others each speaks throughout.
    turn_seconds : tuple of float
        Range of the length of a turn in s.
    overlap : tuple of float
        Range of the share of a turn that overlaps with the one before; small shares are likelier.
    pause : float
        Mean pause between turns that do not overlap, in s.
    backchannels : float
        Chance that someone says a short word into a turn.
    level_difference : float
        Greatest difference between people in dB; None draws each person's loudness as LibriMix does.
    noise_snr : tuple of float
        Range of the ratio of all speech to the noise in dB, while somebody speaks; None draws the noise's loudness as
        LibriMix does.
    noisy : float
        Share of the scenes with noise.
    devices : float
        Share of the scenes heard through a device: telephone band, low-pass, equaliser.
    clipping : float
        Share of the scenes that are clipped.
    codec : float
        Share of the scenes that went through a lossy codec.

    Raises
    ------
    UserError
        Naming the option.
    """

    active: tuple[float, ...] | None = None
    rooms: float = 0.0
    room_count: int = 1000
    room_seed: int = 0
    rt60: tuple[float, float] = (0.15, 0.9)
    measured_rooms: str | None = None
    measured_share: float = 0.1
    early_target: bool = False
    turns: float = 0.0
    turn_seconds: tuple[float, float] = (1.0, 4.0)
    overlap: tuple[float, float] = (0.0, 1.0)
    pause: float = 0.4
    backchannels: float = 0.0
    level_difference: float | None = None
    noise_snr: tuple[float, float] | None = None
    noisy: float = 1.0
    devices: float = 0.0
    clipping: float = 0.0
    codec: float = 0.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            name, value = field.name, getattr(self, field.name)
            if name in SHARES and not 0 <= _number(name, value) <= 1:
                raise UserError(f"scenes: {name} is a share and must be between 0 and 1, not {value}")
            if name in RANGES and not (name == "noise_snr" and value is None):
                object.__setattr__(self, name, _range(name, value, *RANGES[name]))
        if self.active is not None:
            object.__setattr__(self, "active", _chances(self.active))
        if isinstance(self.room_count, bool) or not isinstance(self.room_count, int) or self.room_count < 1:
            raise UserError(f"scenes: room_count must be a whole number of at least 1, not {self.room_count}")
        if isinstance(self.room_seed, bool) or not isinstance(self.room_seed, int) or self.room_seed < 0:
            raise UserError(f"scenes: room_seed must be a whole number of at least 0, not {self.room_seed}")
        if not isinstance(self.early_target, bool):
            raise UserError(f"scenes: early_target must be True or False, not {self.early_target}")
        for name in ("pause", "level_difference"):
            value = getattr(self, name)
            if (value is not None or (name == "pause" and self.turns)) and not 0 <= _number(name, value) < math.inf:
                raise UserError(f"scenes: {name} must be at least 0, not {value}")

    @property
    def off(self) -> bool:
        """Whether every scene would be a plain mixture."""
        return all(getattr(self, name) == value for name, value in PLAIN_MIXTURES.items())


SHARES = ("rooms", "measured_share", "turns", "backchannels", "noisy", "devices", "clipping", "codec")
PLAIN_MIXTURES = {"active": None, "level_difference": None, "noise_snr": None, "noisy": 1} | dict.fromkeys(
    ("rooms", "turns", "devices", "clipping", "codec"), 0
)
RANGES = {
    "rt60": (0.1, 1.5),
    "turn_seconds": (0.3, 60.0),
    "overlap": (0.0, 1.0),
    "noise_snr": (-30.0, 60.0),
}


def read_options(options: dict[str, Any] | None) -> SceneOptions | None:
    """Options of an experiment file, None where all scenes would be plain mixtures.

    Raises
    ------
    UserError
        For an unknown option or a value that cannot be used.
    """
    if options is None:
        return None
    if not isinstance(options, dict):
        raise UserError(f"scenes must be a mapping of options such as {{rooms: 0.5, turns: 0.5}}, not {options}")
    known = [field.name for field in dataclasses.fields(SceneOptions)]
    for name in options:
        if name not in known:
            close = difflib.get_close_matches(str(name), known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"choose from {', '.join(known)}"
            raise UserError(f"scenes: unknown option {name}: {hint}")
    checked = SceneOptions(**options)
    return None if checked.off else checked


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise UserError(f"scenes: {name} must be a number, not '{value}'")
    return value


def _range(name: str, value: object, lowest: float, highest: float) -> tuple[float, float]:
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise UserError(f"scenes: {name} must be a range of two numbers such as [{lowest}, {highest}], not {value}")
    low, high = (float(_number(name, v)) for v in value)
    if not lowest <= low <= high <= highest:
        raise UserError(f"scenes: {name} must be a range within {lowest} to {highest}, not {value}")
    return low, high


def _chances(value: object) -> tuple[float, ...]:
    if not isinstance(value, (list, tuple)) or len(value) < 2:
        raise UserError(f"scenes: active must be a list of chances for 0, 1, 2, ... people, not {value}")
    chances = tuple(float(_number("active", v)) for v in value)
    if not all(0 <= chance <= 1 for chance in chances) or abs(sum(chances) - 1) > 1e-6:
        raise UserError(f"scenes: the chances of active must add up to 1, but {list(value)} add up to {sum(chances):g}")
    return chances
