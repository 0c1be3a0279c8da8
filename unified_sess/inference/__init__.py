"""Using a trained network: recordings in, separated speakers out."""

from typing import TYPE_CHECKING

from unified_sess.inference.windows import Windows

if TYPE_CHECKING:
    from unified_sess.inference.separation import UnifiedSeparation

__all__ = ["UnifiedSeparation", "Windows"]


def __getattr__(name: str) -> type:
    """Import `UnifiedSeparation`, and SpeechBrain with it, when somebody asks for it: the command does without."""
    if name == "UnifiedSeparation":
        from unified_sess.inference.separation import UnifiedSeparation

        return UnifiedSeparation
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
