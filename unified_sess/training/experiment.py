"""Load an experiment file, apply `--network NAME` and `--enhancer none`, refuse what cannot work in one clear line."""

import hashlib
import io
import re
from pathlib import Path
from typing import Any

from hyperpyyaml import resolve_references
from ruamel.yaml import YAML
from ruamel.yaml.comments import TaggedScalar
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from unified_sess.network import MODULE_NAMES, count_speakers
from unified_sess.training.settings import REQUIRED, SETTINGS, check_settings, unknown_setting
from unified_sess.utils.errors import UserError
from unified_sess.utils.files import atomic_path
from unified_sess.utils.yaml_files import UnknownTag, build_yaml, read_yaml, yaml_reason

INCLUDE = re.compile(r"^(network:\s*)!include:(\S+)", re.MULTILINE)
ENHANCER = re.compile(r"^enhancer:[^\n]*$", re.MULTILINE)
NO_ENHANCER = "enhancer: !new:unified_sess.network.NoEnhancer  # none: the separator alone"
RESOLVED_FROM = "# Resolved from"
SOURCE_FOLLOWS = "# With options, train.py takes the same experiment before its references were resolved:"
SOURCE_LINE = "#| "
INCLUDING = re.compile(r"^[^#\n]*!include:", re.MULTILINE)
REFERENCE = re.compile(r"<([^<>\[\]]+)(?=[\[>])")  # of `!ref <name>`, `!ref <name[part]> // 2`


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
    source : str
        The experiment with its overrides and network, before references were resolved.
    settings : dict
        Its top level: settings in their own types, and plain values of everything else.

    Raises
    ------
    UserError
        For a missing or unreadable file, an unknown setting, a value of the wrong type or out of range, an unknown
        network.
    """

    def __init__(self, path: str | Path, overrides: dict | None = None) -> None:
        self.path = Path(path)
        overrides = dict(overrides or {})
        try:
            text = self.path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not text"
            raise UserError(f"cannot read the experiment file {path} ({reason})") from None
        text = self._with_references(text, overrides)
        network, enhancer = overrides.pop("network", None), overrides.pop("enhancer", "as in the file")
        if network is not None:
            text = self._with_network(text, network)
        if enhancer != "as in the file":
            text = self._with_enhancer(text, enhancer)
            overrides.setdefault("enhancement_weight", 0)
        _name_after_choices(text, overrides, self.path)
        overrides = self._checked(_top_level(text, self.path), overrides)
        try:
            self.text, self.source = _resolve(text, overrides, self.path)
        except FileNotFoundError as error:
            raise UserError(f"{path} includes {error.filename}, which does not exist") from None
        except (YAMLError, MarkedYAMLError) as error:
            raise UserError(f"{path} is not valid YAML: {yaml_reason(error)}") from None
        except (ValueError, KeyError, ZeroDivisionError, OverflowError) as error:
            raise UserError(f"{path}: {error.args[0] if error.args else error}") from None
        content = _top_level(self.text, self.path)
        self.settings = content | check_settings(content)

    def _with_references(self, text, overrides):
        """The text in which an override takes effect everywhere: of a saved experiment, the one before resolving."""
        if not overrides or not text.startswith(RESOLVED_FROM):
            return text
        if SOURCE_FOLLOWS in text:
            lines = text.split(SOURCE_FOLLOWS, 1)[1].splitlines()
            return "\n".join(line[len(SOURCE_LINE) :] for line in lines if line.startswith(SOURCE_LINE)) + "\n"
        raise UserError(
            f"{self.path} is a resolved experiment, in which --{next(iter(overrides))} would not change all that follows "
            f"from it: give the experiment file that it came from, with --output_folder {self.path.parent}"
        )

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

    def _checked(self, content, overrides):
        """The overrides in their own types, with the file's own settings where those are of another type."""
        for name, value in overrides.items():
            built = isinstance(content.get(name), (dict, UnknownTag)) and name not in SETTINGS
            if built and value is not None:
                raise UserError(f"{name} is not a value but made by {self.path}: change it there")
            if name not in content and getattr(SETTINGS.get(name), "absent", REQUIRED) is REQUIRED:
                raise unknown_setting(name, content, self.path)
        checked = {}
        for name, value in (content | overrides).items():
            if name in SETTINGS and not isinstance(value, UnknownTag):
                value = SETTINGS[name].checked(name, value)
            # Texts of the file too: HyperPyYAML would write "yes" without its quotes and read True.
            if name in overrides or (
                name in SETTINGS and (isinstance(value, str) or repr(value) != repr(content[name]))
            ):
                checked[name] = value
        return checked

    def build(self) -> dict:
        """Build the objects of the experiment and check that the network gives the wanted number of speakers.

        Returns
        -------
        hparams : dict
            The objects, and the settings in their own types.

        Raises
        ------
        UserError
            When a part cannot be built, a module is missing or the network contradicts `num_spks`.
        """
        hparams = build_yaml(self.text, self.path)
        hparams |= {name: self.settings[name] for name in SETTINGS if name in self.settings}
        modules: Any = hparams.get("modules")
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

    def save(self, path: str | Path) -> None:
        """Write the resolved experiment, and behind it as comments its source, whole or not at all."""
        head = f"{RESOLVED_FROM} {self.path.name}; runs again as it is: python train.py {Path(path).name}\n"
        source = "".join(f"{SOURCE_LINE}{line}\n" for line in self.source.splitlines())
        with atomic_path(path) as temporary:
            Path(temporary).write_text(f"{head}{self.text}\n{SOURCE_FOLLOWS}\n{source}", encoding="utf-8")


def _name_after_choices(text, overrides, path):
    """Set the override `name`, part of the results folder, where the experiment has that setting and an include."""
    defaults, network = _top_level(text, path), INCLUDE.search(text)
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


def _resolve(text, overrides, path):
    """The experiment with overrides, resolved, and the same before its references were resolved.

    Texts stand as words in it while references are resolved, which would take `3/save` for a division, `a #b` for a
    comment and `<a>` for a reference.
    """
    yaml, words = YAML(), {}
    tree = yaml.load(text)
    for name, value in overrides.items():
        replaces = name in SETTINGS and not SETTINGS[name].merges
        if isinstance(value, dict) and isinstance(tree.get(name), dict) and not replaces:
            tree[name].update(_as_words(value, words))
        else:
            tree[name] = _as_words(value, words)
    resolved = _resolved(tree, path, yaml)
    if "network" in tree:  # an included file may change until the experiment runs again
        tree["network"] = _with_its_file(tree["network"], Path(path).parent)
        if not _resolves_to(resolved, tree, path, yaml):
            tree["network"] = resolved["network"]  # its references cannot stand in another file
    texts = {word: value for value, word in words.items()}
    return tuple(_dumped(yaml, _as_texts(part, texts, set())) for part in (resolved, tree))


def _resolved(tree, path, yaml):
    stream = io.StringIO(_dumped(yaml, tree))
    stream.name = str(path)  # includes are found beside the file
    return yaml.load(resolve_references(stream).getvalue())


def _resolves_to(resolved, tree, path, yaml):
    """Whether a tree says the same as one that is resolved."""
    if tree["network"] is None:
        return False
    try:
        found = _resolved(tree, path, yaml)
    except Exception:  # noqa: BLE001 - whatever HyperPyYAML makes of references that lead nowhere
        return False
    return read_yaml(_dumped(yaml, found), path) == read_yaml(_dumped(yaml, resolved), path)


def _with_its_file(node, folder):
    """A network with the file that it includes in its place, whose references now lead into `network`; None if not alone."""
    kind, _, name = str(getattr(node, "tag", None) and node.tag.value or "").partition(":")
    if kind != "!include":
        return node
    text = (folder / name).read_text(encoding="utf-8")
    if INCLUDING.search(text):
        return None
    content = YAML().load(text)
    _lead(content, lambda text: REFERENCE.sub(r"<network[\1]", text), set())
    if isinstance(node, dict):
        for key, value in node.items():
            content[key] = value
    return content


def _lead(node, change, seen):
    """Change the text of every `!ref`, `!copy`, ... below a node, in place."""
    if isinstance(node, TaggedScalar):
        node.value = change(str(node.value))
    elif isinstance(node, (dict, list)) and id(node) not in seen:
        seen.add(id(node))
        for item in node.values() if isinstance(node, dict) else node:
            _lead(item, change, seen)


def _as_words(value, words):
    if isinstance(value, dict):
        return {key: _as_words(item, words) for key, item in value.items()}
    if isinstance(value, list):
        return [_as_words(item, words) for item in value]
    if not isinstance(value, str):
        return value
    return words.setdefault(value, f"text{hashlib.sha256(value.encode(errors='surrogateescape')).hexdigest()}")


def _as_texts(node, texts, seen):
    """Put texts back in place of their words, in place."""
    if isinstance(node, TaggedScalar):
        node.value = _as_texts(str(node.value), texts, seen)
    elif isinstance(node, str):
        found = [word for word in texts if word in node]
        for word in found:
            node = DoubleQuotedScalarString(node.replace(word, texts[word]))
    elif isinstance(node, (dict, list)) and id(node) not in seen:
        seen.add(id(node))
        for key, item in list(node.items() if isinstance(node, dict) else enumerate(node)):
            new = _as_texts(item, texts, seen)
            if new is not item:
                node[key] = new
    return node


def _dumped(yaml, tree):
    stream = io.StringIO()
    yaml.dump(tree, stream)
    return stream.getvalue()


def _top_level(text, path):
    content = read_yaml(text, path)
    if not isinstance(content, dict):
        raise UserError(f"{path} is not an experiment: it has no settings")
    return content
