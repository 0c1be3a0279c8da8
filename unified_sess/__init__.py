"""Speech enhancement and separation in one network, trained with gradient modulation."""

from unified_sess import moved

__version__ = "0.2.0.dev0"

moved.install()
