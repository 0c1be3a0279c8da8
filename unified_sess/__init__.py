"""Speech enhancement and separation in one network, trained with gradient modulation."""

from unified_sess import moved

__version__ = "0.1.0"

moved.install()
