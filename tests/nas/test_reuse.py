"""Going on from an earlier run: its ratings count, nothing is trained for the search, and it is only read."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import Quiet, made_up_accuracy, made_up_table, measuring_little, run_study, told
from optuna.trial import TrialState

from latency.device import Device
from latency.host import fingerprint
from nas.config import SearchConfig
from nas.delivery.finalists import finished
from nas.delivery.front import Front
from nas.folder import RunFolder, open_folder, read_record
from nas.jobs import RunFailed
from nas.reuse import Rating, Reused, add_ratings, inherit, lacking, take_finalists, take_over
from nas.run import run_search
from nas.search.executor import InProcess
from nas.search.record import REUSED_FROM, evaluated_trials
from nas.search.samplers import make_sampler
from nas.search.study import Driver, enqueue, first_candidates, open_study, read_study
from nas.search.target import TableTarget
from nas.training.oracle import SupernetOracle, Task
from nas.training.train import Recipe
from search_spaces.architecture import Architecture
from search_spaces.errors import InputError
from search_spaces.fbnet import FBNetSpace

SPACE = FBNetSpace((1, 8, 8), 10)
Contents = dict[str, tuple[bytes, int]]


def slower(factor: float, device: str = "cpu:threads=2") -> TableTarget:
    """Return a device whose every network takes ``factor`` times as long, with a budget that about half keep."""
    table = made_up_table(SPACE, device)
    calibration = table.calibration.model_copy(update={"slope": factor})
    table = table.model_copy(update={"calibration": calibration, "fingerprint": fingerprint(Device.parse(device))})
    return TableTarget(SPACE, table, None)


def with_budget(target: TableTarget, ms: float) -> TableTarget:
    return TableTarget(target.space, target.table, ms)


@pytest.fixture(scope="module")
def rated(tmp_path_factory: pytest.TempPathFactory) -> Reused:
    """Ratings of a study of made-up accuracies."""
    journal = tmp_path_factory.mktemp("rated") / "study.journal"
    run_study(journal, "random", SPACE, 0.3, 24)
    done = evaluated_trials(read_study(journal), SPACE)
    assert len(done) > 10
    return Reused("first", "d", tuple(Rating(dict(t.architecture.decisions), t.origin, t.accuracy) for t in done))


@pytest.fixture(scope="module")
def halved(rated: Reused) -> TableTarget:
    """A slower device, with a budget that half of the rated candidates keep."""
    target = slower(3)
    ms = [target.predict_ms(SPACE.decide(lambda name, _, r=r: r.decisions[name])) for r in rated.ratings]
    return with_budget(target, float(np.median(ms)))


def test_ratings_become_trials(rated: Reused, halved: TableTarget, tmp_path: Path) -> None:
    study = open_study(tmp_path / "j", ["predicted_ms cpu:threads=2"])
    known = add_ratings(study, SPACE, [halved], rated)
    budget = halved.budget_ms or 0.0
    assert [k.accuracy for k in known] == [r.accuracy for r in rated.ratings]
    assert [dict(k.architecture.decisions) for k in known] == [r.decisions for r in rated.ratings]
    assert [k.ms for k in known] == [(halved.predict_ms(k.architecture),) for k in known]
    assert [k.feasible for k in known] == [k.ms[0] <= budget for k in known]
    assert 0 < sum(k.feasible for k in known) < len(known)
    for trial, rating in zip(study.trials, rated.ratings, strict=True):
        attrs = trial.user_attrs
        assert (attrs["origin"], attrs[REUSED_FROM], attrs["evaluated"]) == (rating.origin, "first", True)
        assert trial.constraints == {"budget cpu:threads=2": attrs["predicted_ms cpu:threads=2"] - budget}
        assert (attrs["macs"], attrs["params"]) == (
            SPACE.macs(SPACE.parse(attrs["architecture"])), SPACE.params(SPACE.parse(attrs["architecture"]))
        )  # fmt: skip
    assert add_ratings(study, SPACE, [halved], rated) == known and len(study.trials) == len(known)


def test_ratings_are_added_where_that_was_interrupted(rated: Reused, halved: TableTarget, tmp_path: Path) -> None:
    study = open_study(tmp_path / "j", ["predicted_ms cpu:threads=2"])
    add_ratings(study, SPACE, [halved], Reused("first", "d", rated.ratings[:5]))
    study = open_study(tmp_path / "j", ["predicted_ms cpu:threads=2"])
    assert len(add_ratings(study, SPACE, [halved], rated)) == len(rated.ratings) == len(study.trials)


@pytest.mark.parametrize("sampler", ["gp", "evolution"])
def test_search_evaluates_only_what_is_new(sampler: Any, rated: Reused, halved: TableTarget, tmp_path: Path) -> None:
    asked: list[Architecture] = []

    def rate(architecture: Architecture) -> float:
        asked.append(architecture)
        return made_up_accuracy(architecture)

    study = open_study(tmp_path / "j", ["predicted_ms cpu:threads=2"])
    known = add_ratings(study, SPACE, [halved], rated)
    study.sampler = make_sampler(sampler, SPACE, [halved], 0)
    bars: list[tuple[int, int]] = []
    for trials in (4, 6):
        Driver(study, SPACE, [halved], InProcess(lambda: rate), trials, lambda *at: bars.append(at)).run()
    assert len(study.trials) == len(known) + 6 and bars[0] == (0, 4) and bars[-1] == (6, 6)
    assert len(asked) == len({a.id for a in asked}) and not {a.id for a in asked} & {k.architecture.id for k in known}
    assert len(asked) == 6 and all(halved.predict_ms(a) <= (halved.budget_ms or 0) for a in asked)
    Driver(study, SPACE, [halved], InProcess(lambda: rate), 0).run()
    assert len(asked) == 6


def test_first_candidates_fill_what_is_lacking(rated: Reused, tmp_path: Path) -> None:
    target = slower(1)
    study = open_study(tmp_path / "j", ["predicted_ms cpu:threads=2"])
    known = add_ratings(study, SPACE, [target], rated)
    first = first_candidates(SPACE, [target], 80, seed=1, largest=True)
    wanted = lacking(first, known, target)
    ids, ms = {k.architecture.id for k in known}, [k.ms[0] for k in known]
    for architecture, origin in first:
        beyond = not min(ms) <= target.predict_ms(architecture) <= max(ms)
        expected = architecture.id not in ids and (origin == "baseline" or beyond)
        assert ((architecture, origin) in wanted) == expected
    assert {origin for _, origin in wanted} == {"random", "largest", "baseline"}  # the budget there was 0.3 ms
    assert lacking(first, [], target) == first
    for _ in range(2):  # resumed
        enqueue(study, wanted)
        waiting = [t.system_attrs["fixed_params"] for t in study.get_trials(states=[TrialState.WAITING])]
        assert waiting == [dict(architecture.decisions) for architecture, _ in wanted]


@pytest.fixture(scope="module", autouse=True)
def short_measurements() -> Iterator[None]:
    with measuring_little():
        yield


def run(config: SearchConfig) -> tuple[Front, Quiet]:
    console = Quiet()
    with open_folder(config, "nas search") as folder:
        front = run_search(config, folder, console)
        folder.save()
    return front, console


def contents(folder: Path) -> Contents:
    """Return content and time of change of every file."""
    return {str(p): (p.read_bytes(), p.stat().st_mtime_ns) for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on digits."""
    folder = tmp_path_factory.mktemp("runs")
    made_up_table(SPACE).save(folder / "cpu.json")
    slower(2).table.save(folder / "two.json")
    config = SearchConfig.checked(
        data="digits", out=folder / "first", table=folder / "cpu.json", sampler="random", trials=6, supernet_steps=17,
        finalists=1, family=1, final_epochs=1, rank_networks=2, proxy_epochs=1, budget_ms=0.25,
    )  # fmt: skip
    run(config)
    return folder / "first"


def second(first: Path, out: Path, **changes: Any) -> SearchConfig:
    given = {
        "out": out, "device": ("cpu:threads=2",), "table": first.parent / "two.json", "budget_ms": 0.45, "trials": 3,
        **changes,
    }  # fmt: skip
    return inherit(first, given)


def untrained(*_: object, **__: object) -> None:
    raise RuntimeError("a step of training")


@pytest.fixture(scope="module")
def whole(first: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that went on from the first: without a step of training up to its finalists, then the same again."""
    out, before = tmp_path_factory.mktemp("whole") / "second", contents(first)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nas.training.train._step", untrained)
        with pytest.raises(RunFailed, match=r"training the finalists: .* a step of training"):
            run(second(first, out, finalists=3))
    trials = told(out / "study.journal")
    run(second(first, out, finalists=3))
    assert told(out / "study.journal") == trials and contents(first) == before
    return out


def test_search_trains_nothing(first: Path, whole: Path) -> None:
    trials = told(whole / "study.journal")
    ratings = {t.architecture.id: t.accuracy for t in evaluated_trials(read_study(first / "study.journal"), SPACE)}
    reused = {t[4]["id"]: t[3][0] for t in trials if REUSED_FROM in t[4] and t[3]}
    assert reused == ratings and len(trials) == len(ratings) + 3
    record = read_record(whole)
    assert list(record["stages"])[:6] == ["reuse", "data", "table", "oracle", "rank check", "search"]
    assert record["report"]["reused"]["rated candidates"] == len(ratings)
    assert (whole / "supernet.safetensors").samefile(first / "supernet.safetensors")
    assert Front.load(whole).devices[0].device == "cpu:threads=2"


def test_ratings_again_are_the_same(first: Path, whole: Path) -> None:
    task = Task(SPACE, "digits", None, whole / "data", 0, whole / "supernet.safetensors", Recipe(1))
    oracle = SupernetOracle(task)
    for trial in evaluated_trials(read_study(first / "study.journal"), SPACE)[:3]:
        assert oracle.rate(trial.architecture) == trial.accuracy


def test_trained_finalists_are_copied(first: Path, whole: Path) -> None:
    front = Front.load(whole).devices[0]
    ids = {candidate.id for candidate in (*front.candidates, *front.rejected)}
    kept = {path.stem for path in (first / "finalists").glob("*.json")}
    kept &= {path.stem for path in (whole / "finalists").glob("*.json")}
    assert read_record(whole)["report"]["reused"]["trained finalists"] == len(kept)
    copied = kept & ids  # a measured latency may leave one out
    assert copied and len(ids) > len(copied)
    for name in copied:
        assert (whole / "models" / f"{name}.onnx").samefile(first / "models" / f"{name}.onnx")
        trained = finished(
            whole, SPACE.parse(next(c.architecture for c in front.candidates + front.rejected if c.id == name))
        )
        assert trained is not None and set(trained.files) == {""}


def test_finalists_that_were_trained_otherwise_are_not_copied(first: Path, tmp_path: Path) -> None:
    for change, copied in (({}, True), ({"final_epochs": 2}, False), ({"label_smoothing": 0.3}, False)):
        config = second(first, tmp_path / str(change), **change)
        known = [t.architecture for t in evaluated_trials(read_study(first / "study.journal"), SPACE)]
        folder = RunFolder(config.out, {"report": {"reused": {}}})
        take_finalists(config, folder, Quiet(), known, [Device.parse("cpu")])
        assert (config.out / "finalists").exists() == copied


def test_goes_on_without_the_earlier_run(first: Path, whole: Path, tmp_path: Path) -> None:
    """What was begun is whole by itself; elsewhere the same search makes the same trials."""
    moved = tmp_path / "first"
    shutil.copytree(first, moved)
    shutil.copy(first.parent / "two.json", tmp_path)
    config = second(moved, tmp_path / "again", finalists=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nas.searching.add_ratings", untrained)
        with pytest.raises(RuntimeError, match="a step of training"):
            run(config)
    shutil.rmtree(moved)
    run(second(moved, tmp_path / "again", finalists=1))
    trials, expected = (told(out / "study.journal") for out in (tmp_path / "again", whole))
    assert [t[:4] for t in trials] == [t[:4] for t in expected]


def test_same_device_takes_its_table_over_and_so_it_does_when_it_was_interrupted(first: Path, tmp_path: Path) -> None:
    for device, table, copied in (("cpu", None, True), ("cpu:threads=2", None, False), ("cpu", "cpu.json", False)):
        given = {"out": tmp_path / f"{device} {table}", "table": first.parent / table if table else None}
        config = inherit(first, {**given, "device": (device,)})
        folder = RunFolder(config.out, {})
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("nas.reuse.write_sealed", untrained)
            with pytest.raises(RuntimeError):
                take_over(config, folder, [Device.parse(device)])
        take_over(config, folder, [Device.parse(device)])
        assert folder.table(Device.parse(device)).exists() == copied
        assert folder.supernet.exists() and folder.ranks.exists() and folder.cache.is_dir()


def test_settings(first: Path, tmp_path: Path) -> None:
    config = inherit(first, {"out": tmp_path / "second"})
    assert (config.data, config.seed, config.supernet_steps, config.final_epochs) == ("digits", 0, 17, 1)
    assert (config.device, config.sampler, config.finalists) == (("cpu",), "random", 1)
    assert (config.budget_ms, config.trials, config.from_run, config.table) == (None, 40, first, None)
    config = inherit(first, {"out": tmp_path, "sampler": "gp", "trials": 0, "budget_ms": 1.0, "data": "digits"})
    assert (config.sampler, config.trials, config.budget_ms) == ("gp", 0, 1.0)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"seed": 1}, "--seed 1: --from .* takes over 0"),
        ({"space": "nb201"}, "--space nb201: --from .* takes over fbnet"),
        ({"data": "elsewhere"}, "--data elsewhere: --from .* takes over digits"),
        ({"oracle": "train"}, "--oracle train: --from .* takes over supernet"),
        ({"supernet_steps": 5}, "--supernet-steps 5: --from .* takes over 17"),
        ({"supernet_paths": "fair"}, "--supernet-paths fair: --from .* takes over single"),
        ({"sampler": "dnas", "budget_ms": 1}, "--sampler dnas trains for each latency anew"),
        ({"trials": -1}, "--trials"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_ratings_depend_on_is_taken_over(given: dict[str, Any], said: str, first: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        inherit(first, {"out": tmp_path / "second", **given})


def test_runs_that_cannot_be_gone_on_from(first: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no run"):
        inherit(tmp_path / "none", {"out": tmp_path / "second"})
    with pytest.raises(InputError, match="a folder of its own"):
        inherit(first, {"out": first.parent / "x" / ".." / "first"})
    learned = SearchConfig.checked(data="digits", out=tmp_path / "dnas", sampler="dnas", budget_ms=1)
    with open_folder(learned, "x"):
        pass
    with pytest.raises(InputError, match="whose supernet leaves images"):
        inherit(learned.out, {"out": tmp_path / "second", "sampler": "gp"})
    begun = SearchConfig.checked(data="digits", out=tmp_path / "begun")
    with open_folder(begun, "x"):
        pass
    for rows, said in ((0, "has not come to its search"), (1, "has rated no candidate yet")):
        if rows:
            open_study(begun.out / "study.journal", ["predicted_ms cpu"])
        with pytest.raises(InputError, match=said):
            run(inherit(begun.out, {"out": tmp_path / "second"}))
        assert not (tmp_path / "second").exists()


def test_lost_supernet_and_changed_data(first: Path, tmp_path: Path) -> None:
    shutil.copytree(first, tmp_path / "first")
    (tmp_path / "first" / "supernet.safetensors").unlink()
    with pytest.raises(InputError, match="has lost its supernet"):
        run(inherit(tmp_path / "first", {"out": tmp_path / "second"}))
    with pytest.raises(InputError, match=r"^--data digits has changed since first was begun; search without --from$"):
        Reused("first", "d", ()).require_same("--data digits", "e")


def test_another_from_is_another_search(first: Path, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(first, tmp_path / "other")
    with pytest.raises(InputError, match="holds another search: there --from was"):
        run(inherit(tmp_path / "other", {"out": whole, "budget_ms": 0.45}))
