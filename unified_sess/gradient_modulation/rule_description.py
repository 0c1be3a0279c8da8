"""Rules of gradient modulation as the user writes them: `remedy(K=5)`, `torchjd:CAGrad(c=0.4)`."""

import ast
from typing import Any


class ModulationError(ValueError):
    """A rule or granularity that does not exist or cannot be used; the message names the way out."""


def name_and_arguments(description: str, example: str) -> tuple[str, dict[str, Any]]:
    """`NAME` or `NAME(argument=value, ...)`, taken apart; `ModulationError` for anything else."""
    if "(" not in description:
        return description, {}
    try:
        call = ast.parse(description, mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
            raise ValueError
        return call.func.id, {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
    except (SyntaxError, ValueError, AttributeError) as error:
        raise ModulationError(f"gradient modulation {description!r} is not like {example}") from error
