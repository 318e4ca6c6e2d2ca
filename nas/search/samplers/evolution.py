"""Regularised evolution: children of the winners of tournaments among the latest candidates."""

import numpy as np
from optuna.study import Study

from nas.search.pareto import non_dominated
from nas.search.record import Evaluated, evaluated_trials, unrated_ids
from nas.search.samplers.proposing import ProposingSampler
from search_spaces.architecture import Architecture
from search_spaces.space import sample_spread

# The population of Real et al. Their tournaments were smaller, for one objective; of ten entrants about three are
# dominated by none, and most of those are far from the population's front.
POPULATION = 100
TOURNAMENT = 50
CROSSOVERS = 0.25
# Where the population has few children left that are new and feasible, random architectures take their place.
CHILDREN = 100
RANDOM_DRAWS = 300


class EvolutionSampler(ProposingSampler):
    """Propose a mutated winner of a tournament; old candidates die, however good (Real et al., AAAI 2019, section 3).

    The population are the latest rated candidates, whoever proposed them. The winner of a tournament is drawn from the
    entrants that no other entrant dominates in accuracy and latency, so that every part of the front has
    children; some children take their decisions from two winners. With several devices the trials take turns at the
    latencies of each.

    Where a ``tournament`` was published for the space it is held as it was published: entrants are drawn with
    replacement, the most accurate wins, and its child has no second parent. Most networks of a grammar learn next to
    nothing, and the fastest of them would be on every tournament's front.
    """

    def propose(self, study: Study, number: int) -> Architecture:
        """Return the architecture of trial ``number``: a child that is feasible and new, or else a random one."""
        rng = np.random.default_rng([self._seed, number])
        done = evaluated_trials(study, self._space)
        seen = {trial.architecture.id for trial in done} | unrated_ids(study, number)
        population = [trial for trial in done if trial.feasible][-POPULATION:]
        for _ in range(CHILDREN if population else 0):
            child = self._child(population, number % len(self._latencies), rng)
            if child.id not in seen and self.feasible(child):
                return child
        drawn = [sample_spread(self._space, rng) for _ in range(RANDOM_DRAWS)]
        return next(iter(self._fresh(drawn, seen) or self._fresh(drawn, set()) or drawn))

    def _child(self, population: list[Evaluated], device: int, rng: np.random.Generator) -> Architecture:
        if self._space.tournament is not None:
            entrants = rng.integers(len(population), size=self._space.tournament)
            best = max((population[i] for i in entrants), key=lambda trial: trial.accuracy)
            return self._space.mutate(best.architecture, rng)
        child = _winner(population, device, rng)
        if rng.random() < CROSSOVERS:
            child = self._space.crossover(child, _winner(population, device, rng), rng)
        return self._space.mutate(child, rng)


def _winner(population: list[Evaluated], device: int, rng: np.random.Generator) -> Architecture:
    entrants = rng.permutation(len(population))[:TOURNAMENT]
    kept = non_dominated([(population[i].accuracy, population[i].ms[device]) for i in entrants])
    return population[int(rng.choice(entrants[kept]))].architecture
