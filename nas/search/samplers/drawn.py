"""Random search: what it draws depends on the space alone."""

import numpy as np
from optuna.study import Study

from nas.search.samplers.proposing import ProposingSampler
from search_spaces.architecture import Architecture
from search_spaces.space import sample


class DrawingSampler(ProposingSampler):
    """Draw every decision with the space's probabilities; Optuna's random sampler knows of none."""

    def propose(self, study: Study, number: int) -> Architecture:
        """Return the architecture of trial ``number``."""
        return sample(self._space, np.random.default_rng([self._seed, number]))
