"""What is installed, without importing it."""

import importlib.util


def has_torch() -> bool:
    """Whether torch is installed; a folder of that name, such as one of results, is not it."""
    spec = importlib.util.find_spec("torch")
    return spec is not None and spec.origin is not None
