"""Using a trained network: recordings in, separated speakers out."""

from unified_sess.inference.long_audio import Windows
from unified_sess.inference.separation import UnifiedSeparation

__all__ = ["UnifiedSeparation", "Windows"]
