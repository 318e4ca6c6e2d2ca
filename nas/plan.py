"""A plan from the clock: what a run can do in the time that it is given, by what the parts cost (``--time``).

The shares and counts were measured on Fashion-MNIST; docs/search.md has the figures.
"""

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from latency.build import ANCHORS
from nas.delivery.shortlist import WIDER

FAMILY = 3
# Longer trainings of the finalists gain more than any refinement of the search: they get more than half of the time.
SEARCH_SHARE = 0.35
MOST_SEARCH_SHARE = 0.5
# So many long trainings were enough to be ahead of the hand-made family and of the largest networks. With fewer, what a
# search has to rate and to train at least takes too much.
LEAST_TRAININGS = 15
# A long training: 12 epochs of 5,000 images were 940 steps, a point more accurate than a third of them. Of few images
# more epochs are needed, but not beyond the default of --final-epochs.
_LONG_STEPS, _LONG_EPOCHS = 940, (12, 30)
# Finalists of which each can have more than this many long trainings are worth having more of: 5 to 8 carry a front.
_LONG_EACH = 2
FINALISTS = (5, 8)
# DARTS (ICLR 2019) trains what it found for 600 epochs; nobody has shown a gain beyond.
MOST_EPOCHS = 600
# A Gaussian process chose well among networks of eight layers after about 50 ratings.
_CANDIDATES, _CANDIDATES_PER_LAYER = 50, 6
# One epoch of 5,000 images. What the process chose by such ratings still led when all were trained for 12 epochs.
_PROXY_STEPS = 78
# With so many steps, a supernet of eight layers with nine candidates led to finalists nearly as good.
_SUPERNET_STEPS = 1700
# Nothing was gained by more candidates: beyond this many times the least, time goes to the finalists. A judgement.
_MOST_TIMES = 4
# At costs that differ by less, the supernet is preferred: finalists may inherit its weights (docs/training.md).
TIE = 0.1
# Checking the supernet's ranking by so many networks may take this share: of fewer, nothing better than inherited
# accuracies can be learned, which alone rank no better than what is known for free.
_RANKED, _RANK_SHARE = 16, 0.15
# Host and estimates vary by some percent; the report takes some seconds.
RESERVE = 0.05


@dataclass(frozen=True)
class Costs:
    """What the parts of a run cost, in seconds of one worker.

    A training step takes ``step_s + step_s_per_mac * macs``, ``macs`` being the mean over the space; ``rating_s`` is
    the evaluation of a candidate, ``proposal_s`` what choosing it takes, ``supernet_start_s`` what making or reading
    the supernet takes (0, as a step of it, where none is considered), ``delivery_s`` exporting and checking a finalist,
    ``measuring_s`` the measurement of one network on all devices at the end. ``steps`` make an epoch, about ``layers``
    decisions a network. Each of the ``devices`` has finalists of its own, at most.
    """

    step_s: float
    step_s_per_mac: float
    macs: float
    rating_s: float
    proposal_s: float
    supernet_step_s: float
    supernet_start_s: float
    delivery_s: float
    measuring_s: float
    steps: int
    layers: int
    workers: int
    devices: int

    def training_s(self, epochs: int, macs: float | None = None) -> float:
        """Return what training a network takes."""
        return epochs * self.steps * (self.step_s + self.step_s_per_mac * (self.macs if macs is None else macs))

    def front_s(self, networks: int) -> float:
        """Return what measuring networks at the end takes, beside some of the table's."""
        return self.measuring_s * (networks + ANCHORS)

    def makespan_s(self, epochs: int, macs: Sequence[float], start_s: float = 0.0) -> float:
        """Return how long the workers take to train and deliver networks, each with ``start_s`` beforehand."""
        free = [0.0] * self.workers
        for one in macs:
            heapq.heapreplace(free, free[0] + start_s + self.training_s(epochs, one) + self.delivery_s)
        return max(free)

    def epochs_within(self, seconds: float, macs: Sequence[float], start_s: float = 0.0) -> int:
        """Return for how many epochs the workers can train networks in a time: at least 1, at most MOST_EPOCHS."""
        low, high = 1, MOST_EPOCHS
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.makespan_s(middle, macs, start_s) <= seconds else (low, middle - 1)
        return low


@dataclass(frozen=True)
class Stage:
    """A stage as ``run.json`` names it, what it does, the seconds that it may take, and why."""

    name: str
    what: str
    planned_s: float
    why: str


@dataclass(frozen=True)
class Plan:
    """How ``time_s`` is divided: ``settings`` by name, ``search`` tells whether there is one, ``why`` in a sentence.

    ``settled`` says how ``final_epochs`` came about, once the time that is left for the finalists is known; until then
    it is an estimate.
    """

    time_s: float
    search: bool
    why: str
    settings: dict[str, Any]
    costs: Costs
    stages: tuple[Stage, ...]
    settled: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return what ``from_json`` takes."""
        return asdict(self)

    @classmethod
    def from_json(cls, body: dict[str, Any]) -> "Plan":
        """Return the plan of ``as_json``."""
        stages = tuple(Stage(**stage) for stage in body["stages"])
        return cls(**{**body, "costs": Costs(**body["costs"]), "stages": stages})

    def settle(self, spent_s: float, macs: Sequence[float], costs: Costs, given: Mapping[str, Any]) -> "Plan":
        """Return the plan with the finalists' epochs fixed: as many as fit in what is left, the same for all.

        Args:
            spent_s: what all stages before have taken.
            macs: of every finalist.
            costs: what the parts cost now.
            given: see ``make_plan``.
        """
        planned = self.settings["final_epochs"]
        before_s = sum(stage.planned_s for stage in self.stages if stage.name not in ("finalists", "front"))
        pace = costs.training_s(1) / self.costs.training_s(1)
        used = f"{spent_s:.0f} s are used, {before_s:.0f} s were planned; a step takes {pace:.2f} x what it took then"
        start_s = costs.supernet_start_s if self.settings["oracle"] == "supernet" else 0.0
        if "final_epochs" in given:
            return replace(self, settled=f"{used}; finalists train {planned} epochs, as given")
        left_s = max(0.0, (1 - RESERVE) * self.time_s - spent_s - costs.front_s(len(macs)))
        epochs = costs.epochs_within(left_s, macs, start_s)
        told = "as planned" if epochs == planned else f"{planned} were planned"
        settled = f"{used}; in the {left_s:.0f} s left for it, {len(macs)} networks train {epochs} epochs each ({told})"
        return replace(self, settled=settled, settings={**self.settings, "final_epochs": epochs})


def _within(bounds: tuple[int, int], number: int) -> int:
    return min(bounds[1], max(bounds[0], number))


def choose_oracle(time_s: float, proxies_s: float, supernet_s: float) -> tuple[str | None, str]:
    """Return the oracle that ``--oracle auto`` stands for, None where neither leaves the finalists enough, and why.

    Args:
        time_s: what there is for search and finalists.
        proxies_s: what training every candidate for a short time takes.
        supernet_s: what a supernet, the check of its ranking and its ratings take; infinity where there is none.
    """
    most_s = MOST_SEARCH_SHARE * time_s
    supernet = f", a supernet {supernet_s:.0f} s" if supernet_s < math.inf else ""
    costs = f"short trainings take {proxies_s:.0f} s{supernet}, of {time_s:.0f} s"
    if abs(proxies_s - supernet_s) <= TIE * max(proxies_s, supernet_s) and supernet_s <= most_s:
        return "supernet", f"{costs}: as good as equal, and finalists inherit the supernet's weights"
    if proxies_s <= min(most_s, max(SEARCH_SHARE * time_s, supernet_s)):
        return "train", f"{costs}: candidates are trained for a short time"
    if supernet_s <= most_s:
        return "supernet", f"{costs}: a supernet rates candidates"
    told = "neither leaves the finalists half of it" if supernet else "that leaves the finalists less than half of it"
    return None, f"{costs}: {told}"


@dataclass(frozen=True)
class _Search:
    """A way to rate candidates: what it takes at least, and what it is to do in its share of the time."""

    least_s: float
    settings: dict[str, int]
    stages: tuple[Stage, ...]

    @property
    def planned_s(self) -> float:
        return sum(stage.planned_s for stage in self.stages)


def _candidates(costs: Costs, given: Mapping[str, Any]) -> int:
    return int(given.get("trials", max(_CANDIDATES, _CANDIDATES_PER_LAYER * costs.layers)))


def _proxy_epochs(costs: Costs, given: Mapping[str, Any]) -> int:
    return int(given.get("proxy_epochs", math.ceil(_PROXY_STEPS / costs.steps)))


def _short_trainings(time_s: float, costs: Costs, given: Mapping[str, Any]) -> _Search:
    def each_s(epochs: int) -> float:
        return (costs.training_s(epochs) + costs.rating_s) / costs.workers + costs.proposal_s

    trials, epochs = _candidates(costs, given), _proxy_epochs(costs, given)
    least_s, share_s = trials * each_s(epochs), SEARCH_SHARE * time_s
    if "proxy_epochs" not in given:
        fitting = [n for n in range(epochs, _MOST_TIMES * epochs + 1) if trials * each_s(n) <= share_s]
        epochs = max(fitting, default=epochs)
    if "trials" not in given:
        trials = min(_MOST_TIMES * trials, max(trials, int(share_s / each_s(epochs))))
    what = f"{trials} candidates, each trained for {epochs} epochs"
    stage = Stage("search", what, trials * each_s(epochs), f"{each_s(epochs):.2f} s each")
    return _Search(least_s, {"trials": trials, "proxy_epochs": epochs}, (stage,))


def _supernet(time_s: float, costs: Costs, given: Mapping[str, Any]) -> _Search:
    trials, epochs = _candidates(costs, given), _proxy_epochs(costs, given)
    network_s = (costs.training_s(epochs) + costs.rating_s) / costs.workers
    ranked = int(given.get("rank_networks", _RANKED if _RANKED * network_s <= _RANK_SHARE * time_s else 0))
    each_s = costs.rating_s / costs.workers + costs.proposal_s
    steps = int(given.get("supernet_steps", _SUPERNET_STEPS))

    def trained_s(steps: int) -> float:
        return costs.supernet_start_s + math.ceil(steps / costs.steps) * costs.steps * costs.supernet_step_s

    fixed_s = costs.supernet_start_s + ranked * network_s
    least_s, share_s = fixed_s + trained_s(steps) + trials * each_s, SEARCH_SHARE * time_s
    if "supernet_steps" not in given and share_s > least_s:
        more = int((share_s - least_s) / costs.supernet_step_s) // costs.steps * costs.steps
        steps = min(_MOST_TIMES * steps, steps + more)
    if "trials" not in given:
        room_s = share_s - fixed_s - trained_s(steps)
        trials = min(_MOST_TIMES * trials, max(trials, int(room_s / each_s)))
    stages = (
        Stage("oracle", f"supernet, {steps} steps", trained_s(steps), f"{1000 * costs.supernet_step_s:.0f} ms a step"),
        Stage("rank check", f"{ranked} networks trained for {epochs} epochs", ranked * network_s,
              f"{network_s:.2f} s each" if ranked else f"{_RANKED} would take more than {_RANK_SHARE:.0%}"),
        Stage("search", f"{trials} candidates", costs.supernet_start_s + trials * each_s, f"{each_s:.2f} s each"),
    )  # fmt: skip
    settings = {"trials": trials, "proxy_epochs": epochs, "supernet_steps": steps, "rank_networks": ranked}
    return _Search(least_s, settings, stages)


def make_plan(time_s: float, spent_s: Mapping[str, float], costs: Costs, given: Mapping[str, Any]) -> Plan:
    """Divide ``time_s``.

    Args:
        time_s: all that there is.
        spent_s: what stages have taken already, by name.
        costs: what the parts cost.
        given: settings that stay as they are, whatever they cost.
    """
    family = int(given.get("family", FAMILY))
    most = costs.devices * int(given.get("finalists", FINALISTS[1]))
    front_s = costs.front_s(most + family)
    short_s = costs.measuring_s * WIDER * most if given.get("budget_ms") else 0.0
    left_s = max(0.0, (1 - RESERVE) * time_s - sum(spent_s.values()) - front_s - short_s)
    long_epochs = int(given.get("final_epochs", _within(_LONG_EPOCHS, math.ceil(_LONG_STEPS / costs.steps))))
    long_s = (costs.training_s(long_epochs) + costs.delivery_s) / costs.workers
    search, oracle, why = _searched(left_s, long_s, long_epochs, costs, given)
    finals_s = left_s - (search.planned_s if search else 0.0)
    fits = int(finals_s / (long_s * (_LONG_EACH if search and "final_epochs" not in given else 1))) - family
    finalists = int(given.get("finalists", _within(FINALISTS, fits // costs.devices)))
    macs = [costs.macs] * (costs.devices * finalists + family)
    start_s = costs.supernet_start_s if oracle == "supernet" else 0.0
    epochs = int(given.get("final_epochs", costs.epochs_within(finals_s, macs, start_s)))
    trained_s = costs.makespan_s(epochs, macs, start_s)
    what, each = "finalists" if search else "largest per latency bin", f"{costs.measuring_s:.1f} s each"
    share = f"{trained_s / left_s:.0%} of the time for training" if left_s else "nothing is left for them"
    stages = (
        *(Stage(name, "done", seconds, "measured") for name, seconds in spent_s.items()),
        *(search.stages if search else ()),
        *([Stage("shortlist", f"up to {WIDER * most} measured", short_s, each)] if search and short_s else []),
        Stage("finalists", f"{finalists} {what}, {family} of the family, {epochs} epochs", trained_s, share),
        Stage("front", f"measured beside {ANCHORS} others", front_s, each),
    )
    over_s = sum(stage.planned_s for stage in stages) - time_s
    if over_s > 0:
        why += f"; what is planned takes {over_s:.0f} s more than the {time_s:.0f} s given"
    settings = {
        "oracle": oracle, **(search.settings if search else {}), "finalists": finalists, "family": family,
        "final_epochs": epochs,
    }  # fmt: skip
    return Plan(time_s, search is not None, why, settings, costs, stages)


def _searched(
    left_s: float, long_s: float, long_epochs: int, costs: Costs, given: Mapping[str, Any]
) -> tuple[_Search | None, str, str]:
    """Return the search, the oracle's name and why; no search where it does not pay and none was asked for."""
    ways = {"train": _short_trainings(left_s, costs, given)}
    if costs.supernet_step_s:
        ways["supernet"] = _supernet(left_s, costs, given)
    if "oracle" in given:
        return ways[given["oracle"]], given["oracle"], f"candidates are rated by --oracle {given['oracle']}"
    if given.get("distil"):
        return ways["supernet"], "supernet", "--distil learns from a supernet"
    supernet_s = ways["supernet"].least_s if "supernet" in ways else math.inf
    oracle, why = choose_oracle(left_s, ways["train"].least_s, supernet_s)
    if "trials" in given or given.get("start"):
        oracle = oracle or min(ways, key=lambda name: ways[name].least_s)
        return ways[oracle], oracle, why
    trainings = left_s / long_s
    if trainings < LEAST_TRAININGS:
        oracle = None
        why = (
            f"the {left_s:.0f} s for training are worth {trainings:.0f} trainings of {long_epochs} epochs, and "
            f"fewer than {LEAST_TRAININGS} leave too little for a search"
        )
    if oracle is None:
        return None, "train", f"no search, as it will not pay: {why}; the largest network per latency bin is trained"
    return ways[oracle], oracle, why
