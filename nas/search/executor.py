"""Executors: where candidates are evaluated. In this process, or on Ray workers; the results are the same."""

import logging
import math
import os
import socket
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from threadpoolctl import threadpool_limits

from nas.training.soundness import Unsound
from search_spaces.errors import InputError

Work = Callable[[Any], Any]
"""Evaluates one job; free of side effects beyond files of its own, since a lost worker's job is run again."""


@dataclass(frozen=True)
class Outcome:
    """What became of a job: a ``value``, or the ``error`` that it raised, as text.

    ``unsound`` tells that the error says something about the candidate, which is none of the work's failures.
    """

    key: Hashable
    value: Any = None
    error: str | None = None
    unsound: bool = False


class Executor(Protocol):
    """Runs jobs on up to ``slots`` workers; each worker makes its work function once, from a factory."""

    slots: int

    def submit(self, key: Hashable, job: Any) -> None:
        """Hand in a job; ``key`` names it in its outcome."""
        ...

    def next(self) -> Outcome:
        """Wait for a job to end and return its outcome."""
        ...

    def close(self) -> None:
        """Free the workers."""
        ...


def one_thread() -> None:
    """Compute with one thread, so that results do not depend on where a job runs.

    The sampler's matrices are small: on a busy machine, threads would wait for each other longer than they compute.
    """
    torch.set_num_threads(1)
    threadpool_limits(1, user_api="blas")


@contextmanager
def all_cores() -> Iterator[None]:
    """Compute with every core that this process may use, for work that runs alone; with one thread afterwards."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    try:
        yield
    finally:
        one_thread()


def _attempt(work: Work, key: Hashable, job: Any) -> Outcome:
    try:
        return Outcome(key, work(job))
    except (OSError, InputError):
        raise  # a full disk or a table with gaps is no fault of the candidate
    except Unsound as error:
        return Outcome(key, error=str(error), unsound=True)
    except Exception as error:
        return Outcome(key, error=f"{type(error).__name__}: {error}")


class InProcess:
    """Runs jobs one after another in this process."""

    slots = 1

    def __init__(self, factory: Callable[[], Work]) -> None:
        self._factory = factory
        self._work: Work | None = None
        self._waiting: deque[tuple[Hashable, Any]] = deque()

    def submit(self, key: Hashable, job: Any) -> None:
        """Hand in a job."""
        self._waiting.append((key, job))

    def next(self) -> Outcome:
        """Run the job that has waited longest."""
        one_thread()
        if self._work is None:
            self._work = self._factory()
        return _attempt(self._work, *self._waiting.popleft())

    def close(self) -> None:
        """Nothing to free."""


class _Worker:
    """The Ray actor: makes its work function once and keeps it."""

    def __init__(self, factory: Callable[[], Work]) -> None:
        one_thread()
        self._factory = factory
        self._work: Work | None = None

    def run(self, key: Hashable, job: Any) -> Outcome:
        if self._work is None:  # not earlier, as Ray hides what fails while an actor is made
            self._work = self._factory()
        return _attempt(self._work, key, job)


def _knock(address: str | None) -> None:
    """Raise OSError where nothing listens at host:port: Ray would try for minutes and then end the process."""
    host, _, port = (address or "").rpartition(":")
    if port.isdecimal() and "/" not in host:
        socket.create_connection((host, int(port)), timeout=10).close()


def connect_ray(slots: int, address: str | None) -> Any:
    """Connect to the cluster at ``address``, or start Ray on this machine, once per process; return the ray module.

    Raises:
        InputError: no cluster answers, or it has fewer than ``slots`` CPUs.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray  # takes seconds, and only runs with several workers need it

    if not ray.is_initialized():
        own = {} if address else {"include_dashboard": False}
        try:
            _knock(address)
            ray.init(address or "local", log_to_driver=False, logging_level=logging.ERROR, **own)
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"no Ray cluster answers at {address}: {reason}") from None
    available = int(ray.cluster_resources().get("CPU", 0))
    if available < slots:
        raise InputError(f"the Ray cluster has {available} CPUs, too few for {slots} workers")
    return ray


def gpu_share(slots: int, gpus: int) -> float:
    """Return the part of a GPU that each worker asks Ray for, which hides GPUs from those that ask for none.

    All workers fit at the same time: no share reaches over from one GPU to the next.
    """
    return 1 / math.ceil(slots / gpus) if gpus else 0.0


class RayWorkers:
    """Runs jobs on Ray actors, one CPU each and a part of a GPU where the cluster has some.

    A worker that dies is replaced and its job run again.

    ``address`` is that of a running cluster (its nodes must see the same files), or None to start Ray on
    this machine.
    """

    def __init__(self, factory: Callable[[], Work], slots: int, address: str | None = None) -> None:
        ray = connect_ray(slots, address)
        self._ray = ray
        self.slots = slots
        share = gpu_share(slots, int(ray.cluster_resources().get("GPU", 0)))
        remote = ray.remote(num_cpus=1, num_gpus=share, max_restarts=3, max_task_retries=3)(_Worker)
        self._make_worker = lambda: remote.remote(factory)
        self._idle = [self._make_worker() for _ in range(slots)]
        self._running: dict[Any, Any] = {}
        self._waiting: deque[tuple[Hashable, Any]] = deque()

    def submit(self, key: Hashable, job: Any) -> None:
        """Hand in a job."""
        self._waiting.append((key, job))
        self._start()

    def _start(self) -> None:
        while self._idle and self._waiting:
            worker = self._idle.pop()
            key, job = self._waiting.popleft()
            self._running[worker.run.remote(key, job)] = (worker, key)

    def next(self) -> Outcome:
        """Wait for the first job to end."""
        (done,), _ = self._ray.wait(list(self._running), num_returns=1)
        worker, key = self._running.pop(done)
        try:
            outcome: Outcome = self._ray.get(done)
        except self._ray.exceptions.RayTaskError as error:
            self._idle.append(worker)
            raise error.cause from None
        except self._ray.exceptions.RayActorError:
            worker, outcome = self._make_worker(), Outcome(key, error="its worker died several times")
        self._idle.append(worker)
        self._start()
        return outcome

    def close(self) -> None:
        """Stop the workers; a cluster that was there before stays."""
        for worker in [*self._idle, *(worker for worker, _ in self._running.values())]:
            self._ray.kill(worker)
        self._idle, self._running = [], {}


def make_executor(factory: Callable[[], Work], workers: int, address: str | None) -> Executor:
    """Return the executor of ``--workers`` and ``--ray``.

    Raises:
        InputError: no cluster answers, or it has too few CPUs.
    """
    if workers == 1 and address is None:
        return InProcess(factory)
    return RayWorkers(factory, workers, address)
