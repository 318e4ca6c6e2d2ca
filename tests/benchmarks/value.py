"""Does a search earn its keep? Fronts of a search and of choices without one, at equal CPU time, everything counted.

Run: .venv/bin/python -P tests/benchmarks/value.py --data fashion_mnist.npz --out DIR [--budgets 30] [--seeds 0 1 2]
Random networks of the first of ``--spaces``, one per latency bin, as many as the largest of ``--budgets`` says, decide
what there is to spend: the CPU seconds of their training by one recipe, and of the latency table; smaller budgets in
proportion. Every other way trains networks by the same recipe until that is used up, after its search if it has one.
What is trained is kept in --out: the same command goes on where it was stopped. In the end all networks are measured
together, and the table is printed: front accuracy (test accuracy of the network that a user with a latency limit gets,
the mean over log latency), by how much the first way in the first space is ahead, with the standard error over the
seeds, and hypervolume.
"""

import argparse
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from matplotlib.figure import Figure
from optuna.study import Study

from latency.build import anchor_models, build_table, drift
from latency.device import Device
from latency.files import read_sealed, write_sealed
from latency.measure import Protocol
from latency.models import device_model, seeded
from latency.table import LatencyTable
from nas.config import make_space
from nas.delivery.finalists import choose_finalists
from nas.delivery.measured import measure_kept
from nas.delivery.value import Point, accuracy_within, front_accuracy, hypervolume_share
from nas.search.baselines import largest_per_bin, random_per_bin
from nas.search.executor import InProcess, one_thread
from nas.search.record import evaluated_trials
from nas.search.samplers import SamplerKind, make_sampler
from nas.search.study import Driver, enqueue, first_candidates, open_study
from nas.search.target import TableTarget
from nas.training.data import Dataset, Split, load_dataset
from nas.training.oracle import SupernetOracle, Task, TrainOracle
from nas.training.recipe import FINAL, Recipe
from nas.training.train import accuracy, train
from search_spaces.architecture import Architecture
from search_spaces.extremes import lowest
from search_spaces.fbnet import FBNetSpace
from search_spaces.space import SearchSpace, sample

DEVICE = Device.parse("cpu")
RANDOM, SUPERNET, LONG = "random per bin", "search by supernet", "search by long trainings"
SEARCHES: dict[str, SamplerKind] = {"search": "gp", "search by NSGA-II": "nsga2", SUPERNET: "gp", LONG: "gp"}
WAYS = (*SEARCHES, RANDOM, "largest per bin", "family")
# Candidates that a search rates per training in its budget, by so many epochs from scratch or by a supernet that takes
# this share of all steps.
CANDIDATES, PROXY_EPOCHS, SUPERNET_SHARE = 2, 1, 0.17
# The limits that networks are chosen for: multiples of the fastest network and of the mean of uniform draws.
_FASTEST, _SLOWEST = 1.15, 1.2
_WIDTHS, _MEMBERS = (0.2, 3.0), 40

T = TypeVar("T")


class Scaled(FBNetSpace):
    """The space with all widths scaled, as in ``small-28 x0.5``."""

    @classmethod
    def _macro(cls, name: str) -> dict[str, Any]:
        plain, _, width = name.partition(" x")
        found = super()._macro(plain)

        def scaled(channels: int) -> int:
            return max(4, 4 * round(channels * float(width) / 4))

        stages = [[scaled(channels), layers, stride] for channels, layers, stride in found["stages"]]
        stem = [scaled(found["stem"][0]), found["stem"][1]]
        return {**found, "stem": stem, "stages": stages, "head": max(found["head"], scaled(found["head"]))}


@dataclass(frozen=True)
class Network:
    """An architecture and the space that builds it."""

    space: SearchSpace
    architecture: Architecture


def family_of(space: SearchSpace) -> list[Network]:
    """Return networks like MobileNetV2, kernel 3 and expansion 6 throughout at many widths, or a space's own family."""
    if not isinstance(space, FBNetSpace):
        return [Network(space, architecture) for architecture in space.baseline_family()]
    found: dict[int, Network] = {}
    for width in np.geomspace(*_WIDTHS, _MEMBERS):
        scaled = Scaled(space.input_shape, space.classes, f"{space.name.partition('/')[2]} x{width:.3f}")
        one = Network(scaled, scaled.decide(lambda _, options: "k3_e6"))
        found.setdefault(scaled.macs(one.architecture), one)
    return list(found.values())


def kept_seconds(path: Path, work: Callable[[], object]) -> float:
    """Do ``work`` unless ``path`` tells what it took: CPU seconds of this process and of those that it waits for."""
    if not path.exists():
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        began = time.process_time()
        work()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        children = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        write_sealed(path, 1, {"seconds": time.process_time() - began + children})
    return float(read_sealed(path, 1, "seconds")["seconds"])


@dataclass(frozen=True)
class Arena:
    """A data set and a seed: what all ways work with. ``target`` has the highest latency limit for a budget."""

    task: Task
    target: TableTarget
    low_ms: float
    table_s: float
    family: list[Network]
    epochs: int
    folder: Path

    def trained(self, network: Network, supernet: Task | None) -> dict[str, float]:
        """Return accuracies after the final training, from the weights of any ``supernet``, and its CPU seconds."""
        a, task, data = network.architecture, self.task, self.task.dataset
        path = self.folder / f"{a.id}{'' if supernet is None else f' {supernet.supernet_recipe.epochs}'}.json"
        if not path.exists():
            fresh = replace(task, space=network.space).fresh
            start = fresh(a) if supernet is None else supernet.train_supernet().inherit(a)
            began = time.process_time()
            done = train(start, data, replace(FINAL, epochs=self.epochs), task.seed)
            val = accuracy(done, data.val, data)
            seconds = time.process_time() - began
            write_sealed(path, 1, {"val": val, "test": accuracy(done, data.test, data), "seconds": seconds})
        return read_sealed(path, 1, "training")

    def rated(self, a: Architecture) -> dict[str, float]:
        """Return the accuracy of a network after a short training, and what that took (CPU s)."""
        path = self.folder / f"{a.id} short.json"
        if not path.exists():
            began = time.process_time()
            found = TrainOracle(self.task, PROXY_EPOCHS).rate(a)
            write_sealed(path, 1, {"accuracy": found, "seconds": time.process_time() - began})
        return read_sealed(path, 1, "rating")

    def rated_by_training(self, study: Study, count: int) -> float:
        """Bring the study to ``count`` trials, and return the CPU seconds: of ratings and of asking for candidates.

        What another search has rated counts for this one as well.
        """
        asking = self._drive_apart(study, lambda a: self.rated(a)["accuracy"], count)
        ratings = (self.rated(trial.architecture) for trial in evaluated_trials(study, self.task.space))
        return asking + sum(rating["seconds"] for rating in ratings)

    def trained_in_turn(self, study: Study, count: int) -> float:
        """Bring the study to ``count`` trials, each trained to the end, and return the CPU seconds of asking alone."""
        network = partial(Network, self.task.space)
        return self._drive_apart(study, lambda a: self.trained(network(a), None)["val"], count)

    def _drive_apart(self, study: Study, rate: Callable[[Architecture], float], count: int) -> float:
        """Bring the study to ``count`` trials, and return the CPU seconds without those of ``rate``."""
        inside = 0.0

        def timed(a: Architecture) -> float:
            nonlocal inside
            began = time.process_time()
            found = rate(a)
            inside += time.process_time() - began
            return found

        began = time.process_time()
        self._drive(study, timed, count)
        return time.process_time() - began - inside

    def _drive(self, study: Study, rate: Callable[[Architecture], float], count: int) -> None:
        space, targets, seed = self.task.space, [self.target], self.task.seed
        enqueue(study, first_candidates(space, targets, count, seed, largest=True))
        Driver(study, space, targets, InProcess(lambda: rate), count).run()

    def searched(self, way: str, trainings: int, budget_s: float) -> tuple[Iterator[Network], Task | None, float]:
        """Return the finalists of a search, its supernet, and the CPU seconds that it took without their training.

        First come as many as what is left lasts for if they take as long as random networks, then what a choice of more
        adds. A search by long trainings trains nothing else.
        """
        space, name = self.task.space, f"{way} {trainings}"
        study = open_study(self.folder / f"{name}.journal", ["cpu"])
        study.sampler = make_sampler(SEARCHES[way], space, [self.target], self.task.seed)
        supernet, spent = None, self.table_s
        kept = self.folder / f"{name}.json"
        if way == SUPERNET:
            epochs = max(1, round(SUPERNET_SHARE * trainings * self.epochs))
            supernet = replace(self.task, supernet=self.folder / f"supernet {epochs}", supernet_recipe=Recipe(epochs))
            supernet.__dict__["dataset"] = self.task.dataset
            spent += kept_seconds(self.folder / f"supernet {epochs}.json", supernet.train_supernet)
            oracle = SupernetOracle(supernet)
            spent += kept_seconds(kept, lambda: self._drive(study, oracle.rate, CANDIDATES * trainings))
        elif way == LONG:
            if not kept.exists():
                write_sealed(kept, 1, {"seconds": self.trained_in_turn(study, trainings)})
            spent += read_sealed(kept, 1, "seconds")["seconds"]
            every = evaluated_trials(study, space)
            return (Network(space, trial.architecture) for trial in every), None, spent
        else:
            if not kept.exists():
                write_sealed(kept, 1, {"seconds": self.rated_by_training(study, CANDIDATES * trainings)})
            spent += read_sealed(kept, 1, "seconds")["seconds"]
        rated = [trial for trial in evaluated_trials(study, space) if trial.feasible]
        count = max(1, round((budget_s - spent) / (budget_s - self.table_s) * trainings))
        choices = (choose_finalists(rated, number, 0) for number in range(count, max(count, len(rated)) + 1))
        chosen = dict.fromkeys(trial.architecture for choice in choices for trial in evenly(choice))
        return (Network(space, architecture) for architecture in chosen), supernet, spent

    def chosen(self, way: str, count: int) -> list[Network]:
        """Return up to ``count`` networks of a way that does not search; the family has as many as it has."""
        space, predict_ms, seed = self.task.space, self.target.predict_ms, self.task.seed
        if way == "family":
            return self.family
        choose = random_per_bin if way == RANDOM else largest_per_bin
        return [Network(space, a) for a in choose(space, predict_ms, *self.limits_ms, count, seed)]

    @property
    def limits_ms(self) -> tuple[float, float]:
        """The lowest and the highest latency limit."""
        return self.low_ms, self.target.budget_ms or np.inf


Result = list[tuple[Network, dict[str, float]]]
Key = tuple[str, str, int, int]
"""Space, way, trainings in the budget, seed."""


def run(arena: Arena, way: str, trainings: int, budget_s: float) -> tuple[Result, float]:
    """Return the networks of a way, trained until the CPU seconds are used up, and all seconds that it took."""
    supernet = None
    if way in SEARCHES:
        networks, supernet, spent = arena.searched(way, trainings, budget_s)
    else:
        networks, spent = evenly(arena.chosen(way, trainings)), 0.0 if way == "family" else arena.table_s
    found: Result = []
    for network in networks:
        if spent >= budget_s:
            break
        found.append((network, arena.trained(network, supernet)))
        spent += found[-1][1]["seconds"]
    return found, spent


def evenly(items: Sequence[T]) -> Iterator[T]:
    """Yield the items so that any first few are spread over all: by the reversed bits of their numbers."""
    for number in sorted(range(len(items)), key=lambda number: int(f"{number:016b}"[::-1], 2)):
        yield items[number]


def measured_ms(table: LatencyTable, space: SearchSpace, networks: Sequence[Network], kept: Path) -> dict[str, float]:
    """Return the measured latency (ms) of each network by its id, the host's drift since the table taken out."""
    with seeded(0):
        models = {
            n.architecture.id: device_model(n.space.build(n.architecture), space.input_shape, DEVICE, "a network")
            for n in networks
        }
    found = measure_kept(kept, DEVICE, {**models, **anchor_models(table, space, DEVICE)}, lambda *_: None)
    change = drift(table, {name: latency.measured for name, latency in found.latency.items()})
    return {name: found.latency[name].ms / change for name in models}


def part_of(data: Dataset, asked: argparse.Namespace) -> Dataset:
    """Return some images of each part."""
    found = {}
    for name, count in (("train", asked.images), ("val", asked.val_images), ("test", 10**6)):
        split: Split = getattr(data, name)
        rows = np.sort(np.random.default_rng(0).permutation(len(split))[:count])
        found[name] = Split(np.ascontiguousarray(split.images[rows]), split.labels[rows])
    return replace(data, **found, digest=f"{data.digest} {asked.images} {asked.val_images}")  # type: ignore[arg-type]


@dataclass(frozen=True)
class Ground:
    """A space, its latency table, what that took (CPU s), and where all that is done in it lies."""

    space: SearchSpace
    table: LatencyTable
    table_s: float
    folder: Path

    @classmethod
    def of(cls, name: str, data: Dataset, out: Path) -> "Ground":
        """Return the space ``name`` for images like those of ``data``; its table is measured unless it is there."""
        space, folder = make_space(name, data.input_shape, len(data.classes)), out / name.replace("/", "-")
        folder.mkdir(exist_ok=True)
        place = folder / "cpu.json"
        table_s = kept_seconds(folder / "table.json", lambda: build_table(space, DEVICE, place, Protocol()))
        return cls(space, LatencyTable.load(place), table_s, folder)

    def limits_ms(self) -> tuple[float, float]:
        """Return the lowest and the highest latency limit that suit the space."""
        free, rng = TableTarget(self.space, self.table, None), np.random.default_rng(0)
        high_ms = _SLOWEST * float(np.mean([free.predict_ms(sample(self.space, rng)) for _ in range(200)]))
        return _FASTEST * free.predict_ms(lowest(self.space, free.predict_ms, 0)), high_ms

    def family(self, low_ms: float, high_ms: float) -> list[Network]:
        """Return the members of the hand-made family that are measured to lie within the limits."""
        members = family_of(self.space)
        ms = measured_ms(self.table, self.space, members, self.folder / "family.json")
        return [network for network in members if low_ms <= ms[network.architecture.id] <= high_ms]


def arenas(asked: argparse.Namespace) -> list[dict[int, Arena]]:
    """Return the arena of each seed in each space: within the limits asked for, or such as suit all of them."""
    part = part_of(load_dataset(asked.data, asked.input, 0, asked.out / "cache"), asked)
    grounds = [Ground.of(name, part, asked.out) for name in asked.spaces]
    suited = [ground.limits_ms() for ground in grounds]
    low_ms, high_ms = asked.limits_ms or (max(low for low, _ in suited), min(high for _, high in suited))
    found: list[dict[int, Arena]] = []
    for ground in grounds:
        target, family = TableTarget(ground.space, ground.table, high_ms), ground.family(low_ms, high_ms)
        found.append({})
        for seed in asked.seeds:
            task = Task(ground.space, asked.data, asked.input, asked.out / "cache", seed, None, Recipe(1))
            task.__dict__["dataset"] = part
            place = ground.folder / f"seed {seed}"
            place.mkdir(exist_ok=True)
            found[-1][seed] = Arena(task, target, low_ms, ground.table_s, family, asked.epochs, place)
    return found


def main() -> None:
    """Train what is not trained yet, measure, and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--budgets", type=int, nargs="+", default=[30])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--spaces", nargs="+", default=["fbnet"])
    parser.add_argument("--limits-ms", type=float, nargs=2, metavar=("LOW", "HIGH"), help="by themselves they suit all")
    parser.add_argument("--input", type=int, help="px; photos need it")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--val-images", type=int, default=3000)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--picture", type=Path, help="draw what a user gets within each limit, at the largest budget")
    asked = parser.parse_args()
    one_thread()
    asked.out.mkdir(parents=True, exist_ok=True)
    every = arenas(asked)
    results: dict[Key, Result] = {}
    most = max(asked.budgets)
    for seed, trainings in product(asked.seeds, asked.budgets):
        arena = every[0][seed]
        random_s = sum(result["seconds"] for _, result in run(arena, RANDOM, most, np.inf)[0])
        budget_s = arena.table_s + trainings / most * random_s
        print(f"seed {seed}: {trainings} trainings take {budget_s:.0f} CPU-s", flush=True)
        for (space, arena), way in product(zip(asked.spaces, (row[seed] for row in every), strict=True), asked.ways):
            found, spent = run(arena, way, trainings, budget_s)
            if not found:
                parser.error(f"{way} takes more than {trainings} trainings: give more --budgets, --images or --epochs")
            results[space, way, trainings, seed] = found
            print(f"  {space}, {way}: {len(found)} networks, {spent / budget_s:.2f} of it", flush=True)
    first = every[0][asked.seeds[0]]
    networks = [network for found in results.values() for network, _ in found]
    ms = measured_ms(first.target.table, first.task.space, networks, asked.out / "measured.json")
    points = {
        key: [Point(ms[n.architecture.id], result["val"], result["test"]) for n, result in found]
        for key, found in results.items()
    }
    limits_ms = max(min(point.ms for point in found) for found in points.values()), first.limits_ms[1]
    show(points, limits_ms, 1 / first.task.space.classes, asked)
    if asked.picture:
        draw(points, limits_ms, asked)


def show(
    points: dict[Key, list[Point]], limits_ms: tuple[float, float], chance: float, asked: argparse.Namespace
) -> None:
    """Print one row per budget, space and way: means over the seeds, and how far the first is ahead."""
    low_ms, high_ms = limits_ms
    print(f"limits of {low_ms:.3f} to {high_ms:.3f} ms, where every front has a network; hypervolume above chance")
    titles = ("trainings", "space, way", "networks", "front acc. %", "first ahead by", "hypervolume %")
    print("{:>9}  {:42} {:>8} {:>15} {:>15} {:>14}".format(*titles))
    for trainings, space, way in product(asked.budgets, asked.spaces, asked.ways):
        runs = [points[space, way, trainings, seed] for seed in asked.seeds]
        first = [points[asked.spaces[0], asked.ways[0], trainings, seed] for seed in asked.seeds]
        theirs, ours = ([100 * front_accuracy(p, low_ms, high_ms, chance) for p in each] for each in (runs, first))
        volume = [100 * hypervolume_share(found, low_ms, high_ms, chance) for found in runs]
        ahead = np.subtract(ours, theirs)
        error = ahead.std(ddof=1) / np.sqrt(len(ahead)) if len(ahead) > 1 else np.nan
        print(
            f"{trainings:9}  {f'{space}, {way}':42} {np.mean([len(found) for found in runs]):8.1f} "
            f"{np.mean(theirs):8.2f} +- {np.std(theirs):4.2f} {ahead.mean():+7.2f} +- {error:4.2f} "
            f"{np.mean(volume):7.1f} +- {np.std(volume):3.1f}  by seed {' '.join(f'{by:+.2f}' for by in ahead)}"
        )


def draw(points: dict[Key, list[Point]], limits_ms: tuple[float, float], asked: argparse.Namespace) -> None:
    """Draw the test accuracy that a user with each latency limit gets: the mean over seeds, lowest and highest."""
    every_ms = np.geomspace(*limits_ms, 300)
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    for space, way in product(asked.spaces, asked.ways):
        runs = [points[space, way, max(asked.budgets), seed] for seed in asked.seeds]
        got = 100 * np.array([[accuracy_within(found, limit, np.nan) for limit in every_ms] for found in runs])
        (line,) = axes.plot(every_ms, got.mean(0), label=f"{space}, {way}")
        axes.fill_between(every_ms, got.min(0), got.max(0), color=line.get_color(), alpha=0.12, linewidth=0)
    axes.set(xscale="log", xlabel="latency limit (ms), measured", ylabel="test accuracy (%)")
    ticks = np.round(np.geomspace(*limits_ms, 6), 2)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(asked.picture, dpi=110)


if __name__ == "__main__":
    main()
