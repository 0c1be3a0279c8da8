"""The table of settings: of which type each is, in which range, and whether a run may go on with another value.

To add a setting to experiments, add one row to `SETTINGS` and one commented line to the experiment files.
"""

import difflib
import math
import numbers
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unified_sess.data.scenes.options import read_options
from unified_sess.gradient_modulation import GradientModulation
from unified_sess.losses import SEPARATION_LOSSES
from unified_sess.network import ENHANCED_FROM, MODULE_NAMES
from unified_sess.utils.errors import UserError
from unified_sess.utils.yaml_files import UnknownTag, read_yaml

NULL_WORDS = ("null", "~")
TRUE_WORDS, FALSE_WORDS = ("true", "yes", "on"), ("false", "no", "off")
REQUIRED = object()


@dataclass(frozen=True)
class Setting:
    """What a setting may be.

    Attributes
    ----------
    optional : bool
        Whether null (None) is allowed.
    fixed : bool
        Whether a run that has checkpoints must keep it, since it decides weights, optimizer groups or data.
    absent
        Value where an experiment file, such as one written earlier, does not have the setting; `REQUIRED`: the file
        has to.
    merges : bool
        Whether the keys that are given replace those of the experiment file, the others staying.
    """

    optional: bool = False
    fixed: bool = False
    absent: Any = REQUIRED
    merges = False

    @property
    def wanted(self) -> str:
        """What a value must be, for messages."""
        return "a value"

    def typed(self, name: str, text: str) -> Any:
        """The value that a text of the command line means, checked."""
        if self.optional and text.strip().lower() in NULL_WORDS:
            return None
        return self.checked(name, self._read(name, text))

    def checked(self, name: str, value: Any) -> Any:
        """The value in its own type; `UserError` where it is of another type or out of range."""
        if value is None:
            if self.optional:
                return None
            raise UserError(f"{name} must be {self.wanted}, not null")
        return self._checked(name, value)

    def _read(self, name, text):
        return read_yaml(text, f"--{name}")

    def _checked(self, name, value):
        return value

    def _refuse(self, name, value):
        shown = f"'{value}'" if isinstance(value, str) else value
        raise UserError(f"{name} must be {self.wanted}{' or null' if self.optional else ''}, not {shown}")


@dataclass(frozen=True)
class Text(Setting):
    """A path or name, taken as it is typed: `speech #2`, `2024-01-01` and `3` are texts."""

    wanted = "a text"

    def _read(self, name, text):
        return text

    def _checked(self, name, value):
        if isinstance(value, (dict, list, bool)):
            self._refuse(name, value)
        if "\0" in str(value) or not str(value).strip():
            raise UserError(f"{name} is empty: give {self.wanted}, or leave --{name} out")
        return str(value)


@dataclass(frozen=True)
class Texts(Text):
    """A path, or a list of them and of nulls in brackets, unless there is a file of that name."""

    wanted = "a text or a list of texts"

    def _read(self, name, text):
        listed = text.startswith("[") and text.endswith("]") and not os.path.exists(text)
        return read_yaml(text, f"--{name}") if listed else text

    def _checked(self, name, value):
        if not isinstance(value, (list, tuple)):
            return super()._checked(name, value)
        if not value:
            self._refuse(name, value)
        return [None if item is None else super(Texts, self)._checked(name, item) for item in value]


@dataclass(frozen=True)
class SceneMapping(Setting):
    """The options of scenes, such as {rooms: 0.5}."""

    wanted = "options such as {rooms: 0.5}"
    merges = True

    def _checked(self, name, value):
        if not isinstance(value, dict):
            self._refuse(name, value)
        _refuse_missing_blanks(name, value)
        if not any(isinstance(option, UnknownTag) for option in value.values()):  # a reference, not resolved yet
            read_options(value)
        return dict(value)


@dataclass(frozen=True)
class WordChoice(Setting):
    """One of some words."""

    words: tuple = ()

    @property
    def wanted(self) -> str:
        """What the setting is, for messages."""
        return f"{', '.join(self.words[:-1])} or {self.words[-1]}"

    def _read(self, name, text):
        return text

    def _checked(self, name, value):
        return value if value in self.words else self._refuse(name, value)


@dataclass(frozen=True)
class Flag(Setting):
    """True or False."""

    wanted = "True or False"

    def _read(self, name, text):
        word = text.strip().lower()
        return True if word in TRUE_WORDS else False if word in FALSE_WORDS else text

    def _checked(self, name, value):
        return value if isinstance(value, bool) else self._refuse(name, value)


@dataclass(frozen=True)
class Number(Setting):
    """A number from `least` to `most`; `above` leaves out the lower end."""

    least: float = -math.inf
    most: float = math.inf
    above: bool = False
    unit: str = ""
    word = "a number"

    @property
    def wanted(self) -> str:
        """What the setting is, for messages."""
        return f"{self.word}{_range(self.least, self.most, self.above, self.unit)}"

    def _checked(self, name, value):
        if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
            self._refuse(name, value)
        if not self.least <= value <= self.most or (self.above and value == self.least):
            self._refuse(name, value)
        return self._number(name, value)

    def _number(self, name, value):
        return value


@dataclass(frozen=True)
class Whole(Number):
    """A whole number; 2.0 is 2."""

    word = "a whole number"

    def _number(self, name, value):
        return int(value) if value == int(value) else self._refuse(name, value)


@dataclass(frozen=True)
class Numbers(Setting):
    """A list of at least one number, each in the range; one number alone will do."""

    each: Number = Number()

    @property
    def wanted(self) -> str:
        """What the setting is, for messages."""
        return f"a list of numbers{_range(self.each.least, self.each.most, self.each.above, self.each.unit)}"

    def _checked(self, name, value):
        values = value if isinstance(value, (list, tuple)) else [value]
        if not values:
            self._refuse(name, value)
        try:
            return [self.each.checked(name, item) for item in values]
        except UserError:
            self._refuse(name, value)


@dataclass(frozen=True)
class ModuleNames(Setting):
    """A list of modules' names, such as [encoder, decoder]."""

    wanted = "a list of modules such as [encoder, decoder]"

    def _checked(self, name, value):
        if not isinstance(value, (list, tuple)):
            self._refuse(name, value)
        _refuse_unknown_modules(name, value)
        return list(value)


@dataclass(frozen=True)
class ModuleNumbers(Setting):
    """A number for some modules, such as {masknet: 0.1}."""

    each: Number = Number()
    wanted = "numbers for modules such as {masknet: 0.1}"

    def _checked(self, name, value):
        if not isinstance(value, dict):
            self._refuse(name, value)
        _refuse_missing_blanks(name, value)
        _refuse_unknown_modules(name, value)
        return {module: self.each.checked(f"{name} of {module}", number) for module, number in value.items()}


@dataclass(frozen=True)
class Rule(Text):
    """A rule of gradient modulation with its arguments, such as `remedy(K=5)`."""

    def _checked(self, name, value):
        if isinstance(value, str) and value.startswith("torchjd:"):
            return value  # what it needs may not be installed, which building it says
        try:
            GradientModulation(value)
        except (TypeError, ValueError, ImportError) as error:
            raise UserError(" ".join(str(error).split())) from None
        return value


def _refuse_missing_blanks(name, mapping):
    """Of {rooms:0.5} YAML makes one key, rooms:0.5."""
    for key, value in mapping.items():
        if value is None and isinstance(key, str) and ":" in key:
            raise UserError(f"{name} has {key}: write a blank behind the colon, {{{key.replace(':', ': ')}}}")


def _refuse_unknown_modules(name, modules):
    for module in modules:
        if module not in MODULE_NAMES:
            raise UserError(f"{name} names '{module}', which is no module: choose from {', '.join(MODULE_NAMES)}")


def _range(least, most, above, unit):
    unit = f" {unit}" if unit else ""
    if math.isfinite(least) and math.isfinite(most):
        return f" {'above' if above else 'from'} {_plain(least)} {'and up ' if above else ''}to {_plain(most)}{unit}"
    if math.isfinite(least):
        return f"{unit} {'above' if above else 'of at least'} {_plain(least)}"
    return unit and f" of{unit}"


def _plain(number):
    return f"{int(number)}" if number == int(number) else f"{number:g}"


LARGEST_SEED = 2**32 - 1  # what NumPy's generators take
LONGEST_SECONDS = 3600.0  # an hour a signal: far behind what a training step holds
LARGEST_COUNT = 10**9

# name: what it may be. Those that decide weights, optimizer groups or data are fixed once there is a checkpoint.
SETTINGS = {
    # Where
    "seed": Whole(least=0, most=LARGEST_SEED, fixed=True),
    "name": Text(),
    "output_folder": Text(),
    "save_folder": Text(),
    "data_folder": Text(optional=True, fixed=True),
    "demo_corpus": Flag(),
    "speech_folder": Texts(optional=True, fixed=True),
    "noise_folder": Texts(optional=True, fixed=True),
    "speakers": Texts(optional=True, fixed=True),
    "speech_shares": Numbers(each=Number(least=0, most=1), optional=True, absent=None),
    "noise_shares": Numbers(each=Number(least=0, most=1), optional=True, absent=None),
    "cache_folder": Text(optional=True, absent=None),
    "scenes": SceneMapping(optional=True, absent=None),
    "allow_overlap": Flag(absent=False),
    "mixtures_per_epoch": Whole(least=1, most=LARGEST_COUNT),
    # Data
    "num_spks": Whole(least=1, most=10, fixed=True),
    "sample_rate": Whole(least=1000, most=192_000, unit="Hz", fixed=True),
    "mode": WordChoice(words=("min", "max"), optional=True, fixed=True),
    "train_split": Text(optional=True, fixed=True),
    "valid_mixtures": Whole(least=1, most=LARGEST_COUNT, optional=True, absent=None),
    "test_mixtures": Whole(least=1, most=LARGEST_COUNT, optional=True, absent=None),
    "training_signal_len": Number(least=0.01, most=LONGEST_SECONDS, unit="s", optional=True),
    "speed_perturb": Numbers(each=Number(least=0.1, most=10), optional=True),
    "num_workers": Whole(least=0, most=1024),
    "audio_examples": Whole(least=0, most=LARGEST_COUNT),
    # Fine-tuning
    "pretrained": Text(optional=True, fixed=True),
    "freeze": ModuleNames(fixed=True),
    "lr_factors": ModuleNumbers(each=Number(least=0, most=1000)),
    # The two tasks
    "gradient_modulation": Rule(),
    "granularity": WordChoice(words=("tensor", "module", "global")),
    "equal_norms": Flag(absent=False),
    "modulated": WordChoice(words=("gradient", "step"), absent="gradient"),
    "enhancement_weight": Number(least=0, most=1e6),
    "separation_loss": WordChoice(words=SEPARATION_LOSSES, absent=SEPARATION_LOSSES[0]),
    "enhancement_loss": WordChoice(
        words=("feature_distance", "log_feature_distance", "snr"), absent="feature_distance"
    ),
    "snr_limit": Number(least=1, most=100, unit="dB", absent=30.0),
    "step_weight": Number(least=0, most=1, absent=0.0),
    "step_decay": Numbers(each=Number(least=0, most=LARGEST_COUNT), optional=True, absent=None),
    "step_loss": WordChoice(words=("as_last", "magnitude"), absent="as_last"),
    "sum_weight": Number(least=0, most=1e6, absent=0.0),
    "detach_clean_features": Flag(),
    "threshold": Number(least=-1000, most=1000, unit="dB", optional=True),
    "gradient_statistics": Flag(),
    "conflict_null_steps": Whole(least=0, most=LARGEST_COUNT, absent=0),
    # Training
    "number_of_epochs": Whole(least=1, most=LARGEST_COUNT),
    "batch_size": Whole(least=1, most=100_000),
    "lr": Number(least=0, most=1, above=True),
    "final_lr": Number(least=0, most=1),
    "warmup_steps": Whole(least=0, most=LARGEST_COUNT, absent=0),
    "weight_decay": Number(least=0, most=1, absent=0.0),
    "plateau_factor": Number(least=0, most=1, above=True),
    "plateau_patience": Whole(least=0, most=LARGEST_COUNT),
    "falling_epochs": Whole(least=0, most=LARGEST_COUNT),
    "dont_halve_until_epoch": Whole(least=0, most=LARGEST_COUNT),
    "max_grad_norm": Number(least=-1, most=1e9),
    "silence_threshold": Number(least=-120, most=-1e-9, unit="dB", optional=True, absent=None),
    "enhanced_from": WordChoice(words=ENHANCED_FROM, absent=ENHANCED_FROM[0]),
    "muon": Flag(absent=False),
    "ema_decay": Number(least=0, most=0.999999, optional=True, absent=None, fixed=True),
    "cuda_graphs": Flag(absent=False),
    "tensorboard": Flag(),
    # SpeechBrain's run options, which experiments may set too
    "grad_accumulation_factor": Whole(least=1, most=1_000_000),
    "optimizer_step_limit": Whole(least=1, most=LARGEST_COUNT, optional=True),
    "ckpt_interval_steps": Whole(least=0, most=LARGEST_COUNT),
    "ckpt_interval_minutes": Whole(least=0, most=LARGEST_COUNT),
    "nonfinite_patience": Whole(least=0, most=LARGEST_COUNT),
    "debug_batches": Whole(least=1, most=LARGEST_COUNT),
    "debug_epochs": Whole(least=0, most=LARGEST_COUNT),
}


def check_settings(settings: dict) -> dict:
    """The settings of an experiment in their own types.

    Arguments
    ---------
    settings : dict
        Top level of a resolved experiment.

    Returns
    -------
    checked : dict
        The rows of the table that the experiment has or that have a value where they are absent.

    Raises
    ------
    UserError
        Naming the setting, what it must be and what it is.
    """
    checked = {}
    for name, setting in SETTINGS.items():
        if name in settings:
            checked[name] = setting.checked(name, settings[name])
        elif setting.absent is not REQUIRED:
            checked[name] = setting.absent
    for first, second in (("ckpt_interval_minutes", "ckpt_interval_steps"),):
        if checked.get(first) and checked.get(second):
            raise UserError(f"{first} and {second} exclude each other: give one of them")
    return checked


def unknown_setting(name: str, known: Iterable[str], path: str | Path) -> UserError:
    """The error for an option that is no setting of an experiment file, with the closest name."""
    close = difflib.get_close_matches(name, list(known), n=1)
    hint = f"did you mean --{close[0]}?" if close else "python train.py --help and the file list them"
    return UserError(f"unknown option --{name} for {path}: {hint}")
