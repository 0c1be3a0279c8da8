"""Sphinx builds the site from these pages: pip install -e ".[docs]" && sphinx-build -W docs site."""

import re
import sys
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import unified_sess  # noqa: E402  after the path

project = "unified_sess"
author = "the unified_sess developers"
copyright = "the unified_sess developers, Apache-2.0"
version = release = unified_sess.__version__

extensions = [
    "myst_nb",  # pages in MyST, and the notebook
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]

nb_execution_mode = "off"  # tests execute it
myst_heading_anchors = 3

# Docstrings: one sentence, then sections in numpy's style; `single backticks` are code.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_use_param = True
napoleon_use_ivar = True

html_theme = "furo"
html_title = f"unified_sess {version}"
html_show_sphinx = False
html_copy_source = False
html_theme_options = {"top_of_page_buttons": []}

CODE = re.compile(r"(`+[^`]*`+)")


def escape_bars(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """|x| and ||x|| are magnitudes in our docstrings, not substitutions of reStructuredText."""
    for k, line in enumerate(lines):
        if "|" in line and not line.lstrip().startswith(">>>"):
            parts = CODE.split(line)
            lines[k] = "".join(part if part.startswith("`") else part.replace("|", r"\|") for part in parts)


def leave_out(app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Fields of named tuples have no text of their own; their class describes them."""
    return True if (getattr(obj, "__doc__", None) or "").startswith("Alias for field number") else None


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-skip-member", leave_out)
    app.connect("autodoc-process-docstring", escape_bars)
