"""The arguments of train.py: experiment file, SpeechBrain's run options, settings of the experiment."""

from collections.abc import Sequence
from typing import Any

from unified_sess.training.settings import SETTINGS
from unified_sess.utils.errors import UserError
from unified_sess.utils.yaml_files import read_yaml


def parse_command_line(arguments: list) -> tuple[str, dict, dict]:
    """Split the arguments of train.py.

    Arguments
    ---------
    arguments : list of str
        `[experiment.yaml, --option, value, ...]`; `--option=value` works too.

    Returns
    -------
    path : str
        The experiment file.
    run_options : dict
        SpeechBrain's own options that were given.
    overrides : dict
        Settings of the experiment, in their types and as they were typed.

    Raises
    ------
    UserError
        When an option lacks a value, is of another type than the setting or out of its range.
    """
    from speechbrain.utils.run_opts import RunOptions  # takes seconds, and settings alone do without

    parser = RunOptions._create_parser()
    parser.allow_abbrev = False

    def refuse(message):
        raise UserError(f"{message}: see python train.py --help")

    parser.error = refuse
    parsed, rest = parser.parse_known_args(arguments)
    given = {a.dest for a in parser._actions for o in a.option_strings if _was_given(o, arguments)}
    run_options = {name: value for name, value in vars(parsed).items() if name in given}
    for name, value in run_options.items():
        if name in SETTINGS:  # SpeechBrain leaves some of them texts, and checks no range
            setting = SETTINGS[name]
            run_options[name] = setting.typed(name, value) if isinstance(value, str) else setting.checked(name, value)
    if run_options.get("ckpt_interval_minutes", 0) > 0 and run_options.get("ckpt_interval_steps", 0) > 0:
        raise UserError("ckpt_interval_minutes and ckpt_interval_steps exclude each other: give one of them")
    return parsed.param_file, run_options, parse_settings(rest)


def typed_value(name: str, text: str) -> Any:
    """The value of an option of the command line, by the table; of a setting that is not in it, as YAML reads it.

    Raises
    ------
    UserError
        When the text is of another type than the setting or out of its range.

    Example
    -------
    >>> typed_value("speech_folder", "speech #2"), typed_value("batch_size", "2.0"), typed_value("mode", "null")
    ('speech #2', 2, None)
    """
    if name in SETTINGS:
        return SETTINGS[name].typed(name, text)
    try:
        value = read_yaml(text, f"--{name}")
    except UserError:
        return text
    # A text may look like YAML ("a: b", "!x", "a #b", 2024-01-01); scalars and bracketed lists are meant as such.
    if isinstance(value, (dict, list)):
        return value if text.lstrip().startswith(("[", "{")) else text
    return value if isinstance(value, (bool, int, float, type(None))) and "#" not in text else text


def _was_given(option, arguments):
    return any(a == option or a.startswith(option + "=") for a in arguments)


def parse_settings(arguments: Sequence[str]) -> dict:
    """Settings of an experiment from `--name value` or `--name=value`, in their types.

    Raises
    ------
    UserError
        When an option lacks a value, is of another type than the setting or out of its range.

    Example
    -------
    >>> parse_settings(["--num_spks", "3", "--mode=min"])
    {'num_spks': 3, 'mode': 'min'}
    """
    overrides, rest = {}, list(arguments)
    while rest:
        option, equals, value = rest.pop(0).partition("=")
        if not option.startswith("--"):
            raise UserError(f"'{option}' is not an option: options start with two dashes, as in --data_folder DIR")
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise UserError(f"option {option} needs a value")
            value = rest.pop(0)
        overrides[option[2:]] = typed_value(option[2:], value)
    return overrides
