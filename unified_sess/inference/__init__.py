"""Using a trained network: recordings in, separated speakers out."""

from unified_sess.inference.separation import UnifiedSeparation
from unified_sess.inference.windows import Windows

__all__ = ["UnifiedSeparation", "Windows"]
