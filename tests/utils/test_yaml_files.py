"""The reader of YAML executes nothing and refuses what would fill memory or stack, in one line."""

import pytest

from unified_sess.utils.errors import UserError
from unified_sess.utils.yaml_files import UnknownTag, read_yaml


def test_tags_are_read_and_never_obeyed():
    text = "a: !new:os.getcwd\nb: !apply:os.abort []\nc: !include:x.yaml\nd: !new:A\n  x: !new:B"
    assert read_yaml(text, "f") == {
        "a": {"class": "os.getcwd", "args": {}},
        "b": UnknownTag("!apply:os.abort"),
        "c": UnknownTag("!include:x.yaml"),
        "d": {"class": "A", "args": {"x": {"class": "B", "args": {}}}},
    }


def test_numbers_are_those_of_hyperpyyaml():
    assert read_yaml("[1e-3, 1.5e3, 2, 0.5, -3e2]", "f") == [0.001, 1500.0, 2, 0.5, -300.0]


def test_aliases_share_what_they_name():
    content = read_yaml("a: &x [1]\nb: *x", "f")
    assert content["a"] is content["b"]


DOUBLING = "a0: &a0 [x, x]\n" + "\n".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 40))


@pytest.mark.parametrize(
    "text, says",
    [
        ("[" * 500, "nests deeper than 100 levels, in line 1"),
        ("[" * 100_000, "f (nests deeper|is not valid YAML)"),
        (DOUBLING, "more than 200,000 values"),
        ("a: &a [*a]", "more than 200,000 values"),
        ("a: 2024-99-99", "not valid YAML: month"),
        ("? [1]\n: 2", "not valid YAML: found unhashable key in line 1"),
        ("a: 1\nb: [1, 2\nc: 3", "not valid YAML: .* in line"),
        ("a: *b", "undefined alias"),
        ("a: !!python/object/apply:os.abort []", "not valid YAML"),
    ],
)
def test_what_cannot_be_read_is_one_line(text, says):
    with pytest.raises(UserError, match=says) as caught:
        read_yaml(text, "f")
    assert "\n" not in str(caught.value) and str(caught.value).startswith("f ")
