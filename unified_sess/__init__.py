"""Speech enhancement and separation in one network, trained with gradient modulation."""

__version__ = "0.1.0"
