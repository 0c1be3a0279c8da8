"""Bringing separated signals to the loudness and polarity of their mixture."""

import numpy as np


class MixtureScale:
    """Factors that bring the sum of the sources closest to the mixture, in the sense of least squares.

    Networks trained with SI-SNR are free in their loudness and in each source's polarity. A source that is opposed to
    the mixture is turned over; one factor for all then minimises `||mixture - factor * sum||^2` over a whole file, so
    the sources keep their balance. It is measured block by block.

    Example
    -------
    >>> scale = MixtureScale()
    >>> scale.add(np.ones(4), np.full((4, 2), [0.25, -0.25]))
    >>> scale.factors.tolist()
    [2.0, -2.0]
    """

    def __init__(self) -> None:
        self.products: np.ndarray | float = 0.0
        self.energies: np.ndarray | float = 0.0

    def add(self, mixture: np.ndarray, sources: np.ndarray) -> None:
        """Add a mixture `[time]` with its sources `[time, speakers]`."""
        sources = sources.astype(np.float64)
        self.products = self.products + mixture @ sources
        self.energies = self.energies + sources.T @ sources

    @property
    def factors(self) -> np.ndarray:
        """The factors `[speakers]`; 1 where all is silent."""
        return self.factors_of(np.ones(np.shape(self.products), bool))

    def factors_of(self, present: np.ndarray) -> np.ndarray:
        """The factors `[speakers]` that bring the sum of some sources, bool `[speakers]`, to the mixture."""
        signs = np.where(np.asarray(self.products) < 0, -1.0, 1.0)
        if not np.any(self.energies):
            return np.ones_like(signs)
        summed = signs * present
        energy = summed @ self.energies @ summed
        factor = summed @ self.products / energy if energy > 0 else 1.0
        return signs * (factor if np.isfinite(factor) and factor != 0 else 1.0)
