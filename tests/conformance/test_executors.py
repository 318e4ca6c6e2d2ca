"""What every executor must do; Ray is started once for all of them."""

import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import digits_task

from latency.device import Device
from nas.delivery.finalists import FinalTraining
from nas.search.executor import Executor, InProcess, Outcome, RayWorkers, Work, gpu_share, make_executor
from nas.training.recipe import Recipe
from search_spaces.errors import InputError
from search_spaces.fbnet import FBNetSpace
from search_spaces.space import sample

WORKERS = 2
MakeExecutor = Callable[[Callable[[], Work]], Executor]


@pytest.fixture(scope="module")
def ray_address() -> Iterator[str]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    ray.init("local", num_cpus=WORKERS, include_dashboard=False, log_to_driver=False, logging_level=40)
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


@pytest.fixture(params=["in process", "Ray"])
def make(request: pytest.FixtureRequest) -> Iterator[MakeExecutor]:
    opened: list[Executor] = []
    if request.param == "Ray":
        request.getfixturevalue("ray_address")

    def made(factory: Callable[[], Work]) -> Executor:
        opened.append(InProcess(factory) if request.param == "in process" else RayWorkers(factory, WORKERS))
        return opened[-1]

    yield made
    for executor in opened:
        executor.close()


# Work is sent to the workers by value: they cannot import this file.
def squares(folder: Path) -> Work:
    import uuid

    (folder / uuid.uuid4().hex).touch()
    calls = []

    def work(job: float) -> tuple[float, int]:
        calls.append(job)
        if job < 0:
            raise ValueError(f"no root of {job}")
        if job == 999:
            raise InputError("a table lacks it")
        return job**0.5, len(calls)

    return work


def run_all(executor: Executor, jobs: Mapping[str, Any]) -> dict[str, Outcome]:
    """Keep as many jobs under way as there are slots, as the search does."""
    waiting, found = list(jobs.items()), {}
    for _ in range(min(executor.slots, len(jobs))):
        executor.submit(*waiting.pop(0))
    while len(found) < len(jobs):
        outcome = executor.next()
        assert outcome.key not in found
        found[str(outcome.key)] = outcome
        if waiting:
            executor.submit(*waiting.pop(0))
    return found


JOBS = {f"job {n}": float(n) for n in range(7)}


@pytest.fixture(autouse=True)
def by_value(request: pytest.FixtureRequest) -> Iterator[None]:
    if "ray_address" not in request.fixturenames and "make" not in request.fixturenames:
        yield
        return
    import sys

    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def test_every_outcome_arrives_with_its_key(make: MakeExecutor, tmp_path: Path) -> None:
    executor = make(partial(squares, tmp_path))
    found = run_all(executor, JOBS)
    assert found.keys() == JOBS.keys()
    for key, job in JOBS.items():
        assert found[key].value[0] == job**0.5 and found[key].error is None


def test_more_jobs_than_slots_may_wait(make: MakeExecutor, tmp_path: Path) -> None:
    executor = make(partial(squares, tmp_path))
    for key, job in JOBS.items():
        executor.submit(key, job)
    found = [executor.next() for _ in JOBS]
    assert {str(outcome.key): outcome.value[0] for outcome in found} == {k: job**0.5 for k, job in JOBS.items()}


def test_exception_is_an_outcome_and_others_go_on(make: MakeExecutor, tmp_path: Path) -> None:
    found = run_all(make(partial(squares, tmp_path)), {"bad": -4.0, **JOBS, "bad too": -1.0})
    assert found["bad"] == Outcome("bad", error="ValueError: no root of -4.0")
    assert found["bad too"].error == "ValueError: no root of -1.0" and found["bad too"].value is None
    assert all(found[key].error is None for key in JOBS)


def test_factory_runs_once_per_worker(make: MakeExecutor, tmp_path: Path) -> None:
    executor = make(partial(squares, tmp_path))
    found = run_all(executor, JOBS)
    assert 1 <= len(list(tmp_path.iterdir())) <= executor.slots
    # Each worker counts its calls: it keeps its work function.
    assert max(outcome.value[1] for outcome in found.values()) >= len(JOBS) / executor.slots


def test_nothing_waits_after_close(make: MakeExecutor, tmp_path: Path) -> None:
    executor = make(partial(squares, tmp_path))
    executor.submit("a", 1.0)
    executor.close()
    executor.close()


def mortal(folder: Path) -> Work:
    import os

    def work(job: float) -> float:
        mark = folder / f"died at {job}"
        if job == 3 and not mark.exists():
            mark.touch()
            os._exit(1)
        return job + 1

    return work


def test_ray_worker_that_dies_is_replaced_and_its_job_repeated(ray_address: str, tmp_path: Path) -> None:
    executor = RayWorkers(partial(mortal, tmp_path), WORKERS)
    found = run_all(executor, JOBS)
    executor.close()
    assert {key: outcome.value for key, outcome in found.items()} == {key: job + 1 for key, job in JOBS.items()}
    assert [path.name for path in tmp_path.iterdir()] == ["died at 3.0"]


def finalists_of_mortals(training: FinalTraining) -> Work:
    """Let each worker die once per finalist, after its first epoch."""
    import os

    from nas.training import train as module

    def save(path: Path, *arguments: Any, then: Callable[..., None] = module.save) -> None:
        then(path, *arguments)
        mark = path.with_suffix(".died")
        if path.parent.name == "finalists" and not mark.exists():
            mark.touch()
            os._exit(1)

    module.save = save
    return training


@pytest.mark.slow
def test_finalists_of_workers_that_die_are_the_same(ray_address: str, tmp_path: Path) -> None:
    space, recipe = FBNetSpace((1, 8, 8), 10), Recipe(2, label_smoothing=0.1, mixup=0.4, ema=0.9, distil=0.3)
    task, rng = digits_task(space, tmp_path, supernet_epochs=2), np.random.default_rng(0)
    jobs = {architecture.id: architecture for architecture in (sample(space, rng) for _ in range(3))}
    undisturbed = FinalTraining(task, recipe, tmp_path / "undisturbed", (Device.parse("cpu"),))
    killed = FinalTraining(task, recipe, tmp_path / "killed", (Device.parse("cpu"),))
    executor = RayWorkers(partial(finalists_of_mortals, killed), WORKERS)
    found = run_all(executor, jobs)
    executor.close()
    assert {path.stem for path in (tmp_path / "killed" / "finalists").glob("*.died")} == jobs.keys()
    for key, architecture in jobs.items():
        assert found[key].value == undisturbed(architecture)


def test_what_the_user_gave_wrongly_is_no_fault_of_a_candidate(make: MakeExecutor, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a table lacks it"):
        run_all(make(partial(squares, tmp_path)), {"a": 4.0, "b": 999.0})


def test_job_that_always_kills_its_worker_is_an_error(ray_address: str) -> None:
    def factory() -> Work:
        def work(job: float) -> float:
            import os

            if job == 3:
                os._exit(1)
            return job + 1

        return work

    executor = RayWorkers(factory, WORKERS)
    found = run_all(executor, JOBS)
    executor.close()
    assert found["job 3"].value is None and found["job 3"].error
    assert all(found[key].value == job + 1 for key, job in JOBS.items() if job != 3)


@pytest.mark.parametrize("gpus", [1, 2, 3, 8])
def test_all_workers_fit_on_the_gpus(gpus: int) -> None:
    assert gpu_share(5, 0) == 0
    for slots in range(1, 20):
        share = gpu_share(slots, gpus)
        assert 0 < share <= 1 and gpus * int(1 / share + 1e-9) >= slots
        assert share == 1 or gpus * int(1 / share + 1e-9) < slots + gpus, "no more workers on a GPU than need be"


def test_make_executor_uses_ray_for_several_workers_alone(ray_address: str) -> None:
    assert isinstance(make_executor(lambda: abs, 1, None), InProcess)
    executor = make_executor(lambda: abs, 2, None)
    assert isinstance(executor, RayWorkers) and executor.slots == 2
    executor.close()


def test_too_many_workers_are_an_input_error(ray_address: str) -> None:
    with pytest.raises(InputError, match="CPUs, too few for 200 workers"):
        make_executor(lambda: abs, 200, None)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nonsense", "auto", "ray://127.0.0.1:1"])
def test_address_without_a_cluster_is_an_input_error(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    if ray.is_initialized():
        monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if address == "auto":
        monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(InputError, match=f"no Ray cluster answers at {address}") as error:
        make_executor(lambda: abs, 1, address)
    assert "\n" not in str(error.value)


def refuse(*_: object, **__: object) -> None:
    raise ConnectionError("Could not find any running Ray instance.\nStart one.")
