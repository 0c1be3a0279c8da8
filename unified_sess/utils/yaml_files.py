"""The one reader of YAML: `read_yaml` gives plain values and trees and executes nothing, also of an untrusted file.

`build_yaml` makes the objects that an experiment or network file of the user names.
"""

import io
import re
from typing import Any

import yaml

from unified_sess.utils.errors import UserError

DEEPEST_NESTING = 100  # levels; an experiment has about ten
LARGEST_DOCUMENT = 200_000  # values with every alias written out; an experiment has about five hundred


def read_yaml(text: str, where: object) -> Any:
    """Read a YAML text; tags are read, never obeyed.

    A `!new:NAME` node becomes `{"class": NAME, "args": {...}}`, any other tag an `UnknownTag`. The size with all aliases
    written out is bounded before anything is made of it, so that a few lines cannot fill the memory.

    Arguments
    ---------
    text : str
        A document.
    where : str or Path
        The file, for messages.

    Returns
    -------
    content
        Dictionaries, lists, numbers, texts, dates, None and `UnknownTag`.

    Raises
    ------
    UserError
        When the text is not YAML, nests too deeply or is too large.

    Example
    -------
    >>> read_yaml("rate: 1e-3\\nnet: !new:torch.nn.Linear {in_features: 2}", "a.yaml")
    {'rate': 0.001, 'net': {'class': 'torch.nn.Linear', 'args': {'in_features': 2}}}
    """
    try:
        _refuse_deep_nesting(text, where)
        loader = PlainLoader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            if _size_written_out(node, {}) > LARGEST_DOCUMENT:
                raise UserError(f"{where} is too large: it holds more than {LARGEST_DOCUMENT:,} values")
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise UserError(f"{where} is not valid YAML: {yaml_reason(error)}") from None
    except (ValueError, TypeError, OverflowError) as error:  # such as the date 2024-99-99, or a list as a key
        raise UserError(f"{where} is not valid YAML: {error}") from None


def build_yaml(text: str, where: object, overrides: dict | None = None) -> dict:
    """Build the objects of a HyperPyYAML text, which may call anything: for the user's own files only.

    Arguments
    ---------
    text : str
        A document.
    where : str or Path
        The file, for messages; what it includes is found beside it.
    overrides : dict
        Values that replace those of the file.

    Raises
    ------
    UserError
        Naming the file, when it is not YAML or one of its objects cannot be built.
    """
    from hyperpyyaml import load_hyperpyyaml  # not needed to read
    from ruamel.yaml.error import YAMLError

    stream = io.StringIO(text)
    stream.name = str(where)
    try:
        return load_hyperpyyaml(stream, overrides)
    except (YAMLError, yaml.YAMLError) as error:
        raise UserError(f"{where} is not valid YAML: {yaml_reason(error)}") from None
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001 - what is built can raise anything
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise UserError(f"{where} cannot be built: {lines[-1] if lines else type(error).__name__}") from None


def yaml_reason(error: Exception) -> str:
    """What a YAML library found wrong, and in which line."""
    mark = getattr(error, "problem_mark", None)
    where = f" in line {mark.line + 1}" if mark else ""
    return f"{getattr(error, 'problem', None) or 'it does not parse'}{where}"


class UnknownTag:
    """Stands for a node whose tag is not `!new:`."""

    def __init__(self, tag: str) -> None:
        self.tag = tag

    def __eq__(self, other: object) -> bool:
        return isinstance(other, UnknownTag) and self.tag == other.tag

    def __hash__(self) -> int:
        return hash(self.tag)

    def __repr__(self) -> str:
        return f"<{self.tag}>"


class PlainLoader(yaml.SafeLoader):
    """PyYAML's safe loader, with `!new:` nodes as trees, other tags as `UnknownTag`, and 1e-3 as a number."""


def _new(loader, name, node):
    arguments = loader.construct_mapping(node, deep=True) if isinstance(node, yaml.MappingNode) else {}
    return {"class": name, "args": arguments}


PlainLoader.add_multi_constructor("!new:", _new)
PlainLoader.add_multi_constructor("!", lambda loader, suffix, node: UnknownTag("!" + suffix))
# YAML 1.1 as PyYAML reads it takes 1e-3 for a string; HyperPyYAML does not.
PlainLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _refuse_deep_nesting(text, where):
    """PyYAML composes recursively, so depth is counted on the events, which are not."""
    depth = 0
    for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > DEEPEST_NESTING:
            raise UserError(f"{where} nests deeper than {DEEPEST_NESTING} levels, in line {event.start_mark.line + 1}")


def _size_written_out(node, known):
    """Nodes below a node, those behind an alias as often as it is used; `known` maps a node's id to its size."""
    if id(node) in known:
        return known[id(node)]
    known[id(node)] = LARGEST_DOCUMENT + 1  # a node that contains itself has no end
    children = []
    if isinstance(node, yaml.SequenceNode):
        children = node.value
    elif isinstance(node, yaml.MappingNode):
        children = [part for pair in node.value for part in pair]
    known[id(node)] = 1 + sum(_size_written_out(child, known) for child in children)
    return known[id(node)]
