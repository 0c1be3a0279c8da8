"""Load an experiment file, apply `--network NAME` and `--enhancer none`, refuse what cannot work in one clear line."""

import difflib
import io
import re
from pathlib import Path

import yaml
from hyperpyyaml import load_hyperpyyaml, resolve_references
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from speechbrain.utils.run_opts import RunOptions

from unified_sess.network import MODULE_NAMES, count_speakers
from unified_sess.utils.errors import UserError
from unified_sess.utils.files import atomic_path

INCLUDE = re.compile(r"^(network:\s*)!include:(\S+)", re.MULTILINE)
ENHANCER = re.compile(r"^enhancer:[^\n]*$", re.MULTILINE)
NO_ENHANCER = "enhancer: !new:unified_sess.network.NoEnhancer  # none: the separator alone"

# Settings that are numbers: (type, smallest value, whether null is allowed)
NUMBERS = {
    "seed": (int, 0, False),
    "num_spks": (int, 1, False),
    "sample_rate": (int, 1, False),
    "number_of_epochs": (int, 1, False),
    "batch_size": (int, 1, False),
    "num_workers": (int, 0, False),
    "lr": (float, 0, False),
    "enhancement_weight": (float, 0, False),
    "training_signal_len": (float, 0, True),
    "threshold": (float, None, True),
    "grad_accumulation_factor": (int, 1, False),
    "optimizer_step_limit": (int, 1, True),
    "ckpt_interval_steps": (int, 0, False),
    "audio_examples": (int, 0, False),
    "mixtures_per_epoch": (int, 1, False),
}


def parse_command_line(arguments):
    """Split the arguments of train.py into experiment file, SpeechBrain's run options and overrides.

    Arguments
    ---------
    arguments : list of str
        `[experiment.yaml, --option, value, ...]`; `--option=value` works too.

    Returns
    -------
    path : str
    run_options : dict
        SpeechBrain's own options that were given.
    overrides : dict
        Everything else, as YAML scalars.

    Raises
    ------
    UserError
        When an option lacks a value or a run option cannot be understood.
    """
    parser = RunOptions._create_parser()
    parser.allow_abbrev = False

    def refuse(message):
        raise UserError(f"{message}: see python train.py --help")

    parser.error = refuse
    parsed, rest = parser.parse_known_args(arguments)
    given = {a.dest for a in parser._actions for o in a.option_strings if _was_given(o, arguments)}
    run_options = {name: value for name, value in vars(parsed).items() if name in given}
    if "optimizer_step_limit" in run_options:  # SpeechBrain leaves it a string
        run_options["optimizer_step_limit"] = _number("optimizer_step_limit", run_options["optimizer_step_limit"])
    if run_options.get("grad_accumulation_factor", 1) < 1:
        raise UserError("grad_accumulation_factor must be at least 1")
    if run_options.get("ckpt_interval_minutes", 0) > 0 and run_options.get("ckpt_interval_steps", 0) > 0:
        raise UserError("ckpt_interval_minutes and ckpt_interval_steps exclude each other: give one of them")
    return parsed.param_file, run_options, _overrides(rest)


def _was_given(option, arguments):
    return any(a == option or a.startswith(option + "=") for a in arguments)


def _overrides(arguments):
    overrides, rest = {}, list(arguments)
    while rest:
        name, equals, value = rest.pop(0).partition("=")
        if not name.startswith("--"):
            raise UserError(f"'{name}' is not an option: options start with two dashes, as in --data_folder DIR")
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise UserError(f"option {name} needs a value")
            value = rest.pop(0)
        try:
            parsed = yaml.load(value, Loader=_TaglessLoader)
        except yaml.YAMLError:
            parsed = value
        # A path may look like YAML ("a: b", "!x"); only scalars and bracketed lists are meant as such.
        plain = value.lstrip().startswith(("[", "{")) or not isinstance(parsed, (dict, list))
        overrides[name[2:]] = parsed if plain and not value.startswith("!") else value
    return overrides


class Experiment:
    """An experiment file with its overrides, resolved but not built yet.

    Arguments
    ---------
    path : str or Path
        Experiment file in HyperPyYAML.
    overrides : dict
        Top-level settings to replace. `network` names a file beside the one that the experiment includes. `enhancer`
        can be none: the separator alone, with an enhancement weight of 0. `name`, where the file has one, is made from
        what is chosen (`dprnn-sum`, `sepformer-cascade`, `convtasnet-separation`) unless it is given.

    Attributes
    ----------
    text : str
        The resolved experiment; it runs again as it is.
    settings : dict
        Its scalar settings.

    Raises
    ------
    UserError
        For a missing or unreadable file, an unknown setting, a value of the wrong type, an unknown network.
    """

    def __init__(self, path, overrides=None):
        self.path = Path(path)
        overrides = dict(overrides or {})
        try:
            text = self.path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not text"
            raise UserError(f"cannot read the experiment file {path} ({reason})") from None
        network, enhancer = overrides.pop("network", None), overrides.pop("enhancer", "as in the file")
        if network is not None:
            text = self._with_network(text, network)
        if enhancer != "as in the file":
            text = self._with_enhancer(text, enhancer)
            overrides.setdefault("enhancement_weight", 0)
        self._refuse_unknown(text, overrides)
        _name_after_choices(text, overrides)
        stream = io.StringIO(text)
        stream.name = str(self.path)  # includes are found beside the file
        try:
            self.text = resolve_references(stream, overrides, overrides_must_match=True).getvalue()
        except FileNotFoundError as error:
            raise UserError(f"{path} includes {error.filename}, which does not exist") from None
        except (YAMLError, MarkedYAMLError) as error:
            raise UserError(f"{path} is not valid YAML: {_yaml_reason(error)}") from None
        except (ValueError, KeyError) as error:
            raise UserError(f"{path}: {error.args[0] if error.args else error}") from None
        self.settings = _scalars(self.text)
        self._refuse_wrong_numbers()

    def _with_network(self, text, network):
        found = INCLUDE.search(text)
        if not found:
            raise UserError(f"{self.path} includes no network file, so --network cannot swap it")
        folder = self.path.parent / Path(found.group(2)).parent
        file = Path(str(network)) if str(network).endswith(".yaml") else folder / f"{network}.yaml"
        if not file.is_file():
            names = ", ".join(sorted(p.stem for p in folder.glob("*.yaml")))
            raise UserError(f"unknown network '{network}': choose one of {names}, or give a .yaml file")
        return text[: found.start(2)] + str(file.resolve()) + text[found.end(2) :]

    def _with_enhancer(self, text, enhancer):
        if not ENHANCER.search(text):
            raise UserError(f"{self.path} has no line 'enhancer:', so --enhancer cannot change it")
        if enhancer not in ("none", None):
            raise UserError(f"--enhancer can be none, not '{enhancer}': an enhancer comes with its --network")
        return ENHANCER.sub(NO_ENHANCER, text, count=1)

    def _refuse_unknown(self, text, overrides):
        known = _scalars(text, self.path)
        for name in overrides:
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean --{close[0]}?" if close else "python train.py --help and the file list them"
                raise UserError(f"unknown option --{name} for {self.path}: {hint}")

    def _refuse_wrong_numbers(self):
        for name in NUMBERS:
            if name in self.settings:
                _number(name, self.settings[name])

    def build(self):
        """Build the objects of the experiment and check that the network gives the wanted number of speakers.

        Returns
        -------
        hparams : dict

        Raises
        ------
        UserError
            When a part cannot be built, a module is missing or the network contradicts `num_spks`.
        """
        try:
            hparams = load_hyperpyyaml(self.text)
        except (YAMLError, MarkedYAMLError) as error:
            raise UserError(f"{self.path} is not valid YAML: {_yaml_reason(error)}") from None
        except (TypeError, ValueError, ImportError, AttributeError) as error:
            raise UserError(f"{self.path} cannot be built: {_last_line(error)}") from None
        modules = hparams.get("modules")
        missing = [name for name in MODULE_NAMES if not isinstance(modules, dict) or name not in modules]
        if missing:
            raise UserError(f"{self.path} has no {', '.join(missing)} under 'modules'")
        speakers = count_speakers(modules)
        if speakers != hparams["num_spks"]:
            raise UserError(
                f"the network gives {speakers} sources but num_spks is {hparams['num_spks']}: "
                "pass num_spks into the network file (num_spks: !ref <num_spks>) or change num_spks"
            )
        return hparams

    def save(self, path):
        """Write the resolved experiment, whole or not at all."""
        with atomic_path(path) as temporary:
            Path(temporary).write_text(
                f"# Resolved from {self.path.name}; runs again as it is: python train.py {Path(path).name}\n"
                + self.text,
                encoding="utf-8",
            )


def _name_after_choices(text, overrides):
    """Set the override `name`, part of the results folder, where the experiment has that setting and an include."""
    defaults, network = _scalars(text), INCLUDE.search(text)
    if "name" not in defaults or "name" in overrides or not network:
        return
    chosen = defaults | overrides
    parts = [Path(network.group(2)).stem]
    if NO_ENHANCER in text:
        parts.append("separation")
    elif chosen["enhancement_weight"] == 0:
        parts.append("cascade")
    else:
        parts.append(chosen["gradient_modulation"])
        for option, word in (("granularity", ""), ("enhancement_weight", "lambda-")):
            if chosen[option] != defaults[option]:
                parts.append(f"{word}{chosen[option]}")
    overrides["name"] = re.sub(r"[^\w.=]+", "-", "-".join(map(str, parts))).strip("-")


def _number(name, value):
    kind, smallest, optional = NUMBERS[name]
    if value is None and optional:
        return None
    try:
        if isinstance(value, bool):
            raise ValueError
        number = kind(value)
        if number != float(value) or number != number:
            raise ValueError
    except (TypeError, ValueError):
        word = "a whole number" if kind is int else "a number"
        raise UserError(f"{name} must be {word}, not '{value}'") from None
    if smallest is not None and number < smallest:
        raise UserError(f"{name} must be at least {smallest}, not {value}")
    return number


class _TaglessLoader(yaml.SafeLoader):
    """Reads scalars and lists; what a tag would build becomes None."""


_TaglessLoader.add_multi_constructor("!", lambda loader, suffix, node: None)
# YAML 1.1 as PyYAML reads it takes 1e-3 for a string; HyperPyYAML does not.
_TaglessLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _scalars(text, path="the experiment"):
    try:
        tree = yaml.load(text, Loader=_TaglessLoader)
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {_yaml_reason(error)}") from None
    if not isinstance(tree, dict):
        raise UserError(f"{path} is not an experiment: it has no settings")
    return tree


def _yaml_reason(error):
    mark = getattr(error, "problem_mark", None)
    where = f" in line {mark.line + 1}" if mark else ""
    return f"{getattr(error, 'problem', None) or 'it does not parse'}{where}"


def _last_line(error):
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
