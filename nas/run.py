"""A run: the stages in order, each resumed where it was and skipped when its file is valid."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

from latency.device import Device
from latency.host import fingerprint
from nas.config import SearchConfig, make_space, parse_input, require_space
from nas.delivery.choice import Finalist, choose, choose_unsearched
from nas.delivery.finalists import FinalTraining, Trained, failure, finished
from nas.delivery.front import Front
from nas.delivery.shortlist import shortlist
from nas.folder import RunFolder
from nas.jobs import RunFailed, run_jobs
from nas.measuring import Console, device_fronts, make_targets
from nas.reuse import take_finalists, take_over
from nas.schedule import Schedule
from nas.search.additive import best_within
from nas.search.baselines import family_within
from nas.search.distribution import Probabilities, load, save, summary
from nas.search.dnas import learn_at_budget, require_layers
from nas.search.executor import Work, all_cores, connect_ray, one_thread
from nas.search.record import Evaluated
from nas.search.samplers import LEARNED
from nas.search.starts import starting_networks
from nas.search.stratified import stratified
from nas.search.study import open_study
from nas.search.target import TableTarget, metric
from nas.searching import search_study
from nas.training.blockwise import require_stages
from nas.training.data import Dataset, load_dataset
from nas.training.oracle import OracleKind, RungOracle, Task, TrainOracle, make_oracle
from nas.training.paths import require_paths
from nas.training.recipe import Recipe
from nas.training.report import RankReport, free_scores
from search_spaces.architecture import Architecture
from search_spaces.errors import InputError
from search_spaces.space import SearchSpace


def run_search(config: SearchConfig, folder: RunFolder, console: Console) -> Front:
    """Carry a search from data to front; the same call again resumes it.

    Raises:
        InputError: something given is wrong; nothing is damaged.
        RunFailed: a stage could not finish.
    """
    return _Run(config, folder, console).run()


def prepare(config: SearchConfig, folder: RunFolder, console: Console) -> tuple[Task, TableTarget]:
    """Carry a run from data to a trained supernet and a latency table of its first device.

    Raises:
        InputError: something given is wrong; nothing is damaged.
    """
    run = _Run(config, folder, console)
    one_thread()
    with folder.stage("data"):
        data = run._load_data()
        space = run._make_space(data)
    task = run._task(space, data)
    with folder.stage("table"):
        targets = make_targets(config, folder, console, space, run.devices)
    with folder.stage("oracle"):
        run._train_supernet(task)
    return task, targets[0]


class _Run:
    def __init__(self, config: SearchConfig, folder: RunFolder, console: Console) -> None:
        self.config, self.folder, self.console = config, folder, console
        self.devices = [Device.parse(name) for name in config.device]
        self.size = parse_input(config.input)
        require_space(config.space)
        if config.sampler in LEARNED and config.budget_ms is None:
            raise InputError(f"--sampler {config.sampler} learns a distribution at a latency: give --budget-ms")
        if config.workers > 1 or config.ray is not None:
            connect_ray(config.workers, config.ray)
        folder.record["devices"] = [fingerprint(device) for device in self.devices]
        self.schedule = Schedule(config, folder, console) if config.time is not None else None

    def run(self) -> Front:
        one_thread()
        reused = None
        if self.config.from_run is not None:
            with self.folder.stage("reuse"):
                reused = take_over(self.config, self.folder, self.devices)
        with self.folder.stage("data"):
            data = self._load_data()
            if reused is not None:
                reused.require_same(f"--data {self.config.data}", data.digest)
            space = self._make_space(data)
            if self.schedule:
                self.schedule.require_time(space, self.devices)
        with self.folder.stage("table"):
            targets = make_targets(self.config, self.folder, self.console, space, self.devices)
        if self.schedule:
            with self.folder.stage("plan"):
                self.config = self.schedule.begin(self._task(space, data), targets, self.devices)
        task = self._task(space, data)
        rated = self._search(task, targets) if self.schedule is None or self.schedule.plan.search else None
        if reused is not None:
            self._tell_seconds()
        short = rated
        if rated and self.config.budget_ms is not None:
            with self.folder.stage("shortlist"):
                short = shortlist(self.folder, self.console, self.devices, targets, rated, self.config.finalists)
        with self.folder.stage("finalists"):
            finalists = self._choose(task, targets, rated, short)
            trained = self._train_finalists(task, [finalist.architecture for finalist in finalists])
        with self.folder.stage("front"):
            front = self._front(task, targets, finalists, trained)
        if self.schedule:
            self.schedule.tell()
        return front

    def _search(self, task: Task, targets: list[TableTarget]) -> list[Evaluated]:
        with self.folder.stage("oracle"):
            self._train_supernet(task)
        with self.folder.stage("rank check"):
            task = self._check_ranks(task, targets)
        learned = self._learn(task, targets) if self.config.sampler in LEARNED else None
        with self.folder.stage("search"):
            factory = partial(_rating_work, task, self.config)
            free = partial(free_scores, task, kept=self.folder.naswot)
            proposed = self._best_by_score(task, targets) if task.blockwise else []
            if self.config.halving:
                factory = partial(_rung_work, task, self.config, self.folder.rungs)
            return search_study(
                self.config, self.folder, self.console, task.space, targets, factory, free=free, learned=learned,
                proposed=proposed,
            )  # fmt: skip

    def _make_space(self, data: Dataset) -> SearchSpace:
        """Return the space, if it can be searched as the configuration says."""
        config = self.config
        space = make_space(config.space, data.input_shape, len(data.classes))
        if config.sampler == "dnas":
            require_layers(space)
        starting_networks(space, config.start or ())
        if config.oracle == "blockwise":
            require_stages(space)
        require_paths(config.supernet_paths, space)
        return space

    def _load_data(self) -> Dataset:
        config = self.config
        with self.console.progress("reading the images"):
            data = load_dataset(config.data, self.size, config.seed, self.folder.cache)
        digest = self.folder.record.setdefault("data_digest", data.digest)
        if digest != data.digest:
            raise InputError(f"--data {config.data} has changed since {self.folder.path} was begun; use another --out")
        channels, height, width = data.input_shape
        title = f"{config.data}: {channels} x {height} x {width}, split {data.digest[:12]}"
        rows = [[name, *map(str, counts)] for name, *counts in data.describe()]
        self.console.table(title, ["class", "train", "val", "test"], rows)
        return data

    def _task(self, space: SearchSpace, data: Dataset) -> Task:
        config = self.config
        per_epoch = math.ceil(len(data.train) / Recipe(1).batch_size)
        epochs = math.ceil(config.supernet_steps / per_epoch)
        learned, blockwise = config.sampler in LEARNED, config.oracle == "blockwise"
        supernet = self.folder.supernet if config.trains_supernet else None
        return Task(
            space, config.data, self.size, self.folder.cache, config.seed,
            self.folder.blockwise if blockwise else supernet, Recipe(epochs), learned, config.supernet_paths,
            blockwise=blockwise,
        )  # fmt: skip

    def _train_supernet(self, task: Task) -> None:
        if task.supernet is None:
            return
        doing = "reading" if self.config.from_run else "training"
        with self.console.progress(f"{doing} the supernet") as progress, all_cores():
            task.train_supernet(progress)

    def _best_by_score(self, task: Task, targets: list[TableTarget]) -> list[Architecture]:
        """Return the networks that a block-wise supernet scores highest at several latencies; say how it scores."""
        with self.console.progress("finding the highest scores at each latency"):
            trained = task.train_blockwise()
            found = best_within(task.space, trained.parts, trained.losses, targets, self.config.seed)
        lines = trained.lines()
        self.folder.record["report"]["block-wise supernet"] = lines
        self.console.say("block-wise supernet: " + "; ".join(f"{label}: {value}" for label, value in lines.items()))
        return found

    def _learn(self, task: Task, targets: list[TableTarget]) -> Probabilities:
        """Return the distribution that the sampler draws from."""
        path = self.folder.distribution
        checkpoint = path.with_suffix(".safetensors")
        with self.folder.stage("distribution"):
            if not path.exists():
                with self.console.progress("learning the distribution") as progress, all_cores():
                    found = learn_at_budget(task, targets, LEARNED[self.config.sampler], checkpoint, progress)
                save(path, task.space, found)
            checkpoint.unlink(missing_ok=True)
        learned = load(path, task.space)
        lines = summary(task.space, learned, targets[0].predict_ms)
        self.folder.record["report"]["learned distribution"] = lines
        self.console.say("learned distribution: " + ", ".join(f"{label} {value}" for label, value in lines.items()))
        return learned

    def _check_ranks(self, task: Task, targets: list[TableTarget]) -> Task:
        """Return the task with what the supernet oracle rates by."""
        config, path = self.config, self.folder.ranks
        if config.oracle != "supernet" or config.rank_networks < 2 or (config.from_run and not path.exists()):
            return task
        if not path.exists():
            networks = stratified(task.space, targets[0], config.rank_networks, config.seed + 1)
            rated = self._map("rating networks", partial(_rating_work, task, config), networks)
            trained = self._map("training networks from scratch", partial(_scratch_work, task, config), networks)
            RankReport.of(task, networks, rated, trained, config.proxy_epochs).save(path)
        report = RankReport.load(path)
        title = f"rank of the supernet against {config.proxy_epochs} epochs from scratch"
        self.folder.record["report"][title] = report.lines
        self.console.say(f"{title}: " + ", ".join(f"{label} {value}" for label, value in report.lines.items()))
        return replace(task, rating=report.rating) if report.rating else task

    def _tell_seconds(self) -> None:
        """Say how long the search for another device or budget took, without measuring and final training."""
        parts = {
            name: s for name, s in self.folder.record["stages"].items() if name not in ("table", "finalists", "front")
        }
        text = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in parts.items())
        self.console.say(f"searched in {sum(parts.values()):.1f} s, blocks and finalists not counted ({text})")

    def _map(self, title: str, factory: Callable[[], Work], jobs: list[Architecture]) -> list[Any]:
        """Run one job per architecture and return the values in order."""
        named = {job.id: job for job in jobs}
        return list(run_jobs(self.config, self.console, title, factory, named).values())

    def _choose(
        self,
        task: Task,
        targets: list[TableTarget],
        rated: list[Evaluated] | None,
        short: list[Evaluated] | None,
    ) -> list[Finalist]:
        """Return what to train to the end, the best of ``short``; both are None where nothing was searched."""
        config, path, space = self.config, self.folder.path, task.space
        if rated is None or short is None:
            open_study(self.folder.journal, [metric(target.kind, target.device) for target in targets])
            finalists = choose_unsearched(path, space, targets, config.seed, config.finalists, config.family)
        else:
            if not rated:
                raise RunFailed("no candidate within the budget was rated; give more --trials")
            known = [*(trial.architecture for trial in rated), *family_within(space, targets)]
            take_finalists(config, self.folder, self.console, known, self.devices)
            finalists = choose(path, space, targets, rated, short, config.finalists, config.family)
            if task.blockwise:  # what rated them is no accuracy
                finalists = [replace(each, accuracy=None, score=each.accuracy) for each in finalists]
        if self.schedule:
            self.config = self.schedule.settle(task, [finalist.architecture for finalist in finalists])
        return finalists

    def _train_finalists(self, task: Task, chosen: Sequence[Architecture]) -> list[Trained]:
        path = self.folder.path
        factory = partial(FinalTraining, task, self.config.final, path, tuple(self.devices))
        waiting = [a for a in chosen if not finished(path, a) and not failure(path, a)]
        self._map("training the finalists", factory, waiting)
        failed = {a.id: reason for a in chosen if (reason := failure(path, a))}
        if failed:
            self.folder.record["report"]["finalists left out"] = failed
            self.console.say("left out: " + "; ".join(f"{finalist}: {reason}" for finalist, reason in failed.items()))
        done = [trained for a in chosen if (trained := finished(path, a))]
        if not done:
            raise RunFailed("none of the finalists could be trained and exported: give more --finalists or --family")
        return done

    def _front(
        self, task: Task, targets: list[TableTarget], finalists: list[Finalist], trained: list[Trained]
    ) -> Front:
        data = task.dataset
        front = Front(
            space=task.space.name, input_shape=data.input_shape, data=self.config.data, data_digest=data.digest,
            classes=data.classes,
            devices=device_fronts(
                self.folder, self.console, self.devices, targets, finalists, trained, len(data.test)
            ),
        )  # fmt: skip
        front.save(self.folder.path)
        return front


def _rating_work(task: Task, config: SearchConfig) -> Work:
    return make_oracle(cast(OracleKind, config.oracle), task, config.proxy_epochs).rate


def _rung_work(task: Task, config: SearchConfig, folder: Path) -> Work:
    return RungOracle(task, config.proxy_epochs, folder).rate


def _scratch_work(task: Task, config: SearchConfig) -> Work:
    return TrainOracle(task, config.proxy_epochs, tried=False).rate
