"""A user's own folders of speech and noise, indexed and mixed on the fly."""
