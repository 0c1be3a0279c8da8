"""Names that networks, their files and what runs them share; without torch."""

MODULE_NAMES = ("encoder", "enhancer", "masknet", "decoder")
ENHANCED_FROM = ("enhancer", "sources")  # what an enhanced mixture may be made of; the first is the default
