"""Bringing separated signals to the loudness of their mixture."""

import numpy as np


class MixtureScale:
    """One factor that brings the sum of the sources closest to the mixture, in the sense of least squares.

    Networks trained with SI-SNR are free in their loudness. The factor minimises `||mixture - factor * sum||^2` over a
    whole file, so the sources keep their balance; it is measured block by block.

    Example
    -------
    >>> scale = MixtureScale()
    >>> scale.add(np.ones(4), np.full((4, 2), 0.25))
    >>> scale.factor
    2.0
    """

    def __init__(self):
        self.product = self.energy = 0.0

    def add(self, mixture, sources):
        """Add a mixture `[time]` with its sources `[time, speakers]`."""
        total = sources.sum(axis=1, dtype=np.float64)
        self.product += float(mixture @ total)
        self.energy += float(total @ total)

    @property
    def factor(self):
        """The factor; 1 where all is silent."""
        factor = self.product / self.energy if self.energy > 0 else 1.0
        return factor if np.isfinite(factor) and factor != 0 else 1.0
