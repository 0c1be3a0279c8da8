"""A corpus without a download: voices that lie in the package, noise from code, mixtures of both."""
