"""Jobs of a run that all have to succeed, on its executor."""

from collections.abc import Callable, Hashable, Mapping
from typing import Any

from nas.config import SearchConfig
from nas.measuring import Console
from nas.search.executor import Work, make_executor


class RunFailed(RuntimeError):
    """A stage could not finish; what was finished is kept."""


def run_jobs(
    config: SearchConfig,
    console: Console,
    title: str,
    factory: Callable[[], Work],
    jobs: Mapping[str, Any],
    keep: Callable[[Hashable, Any], None] = lambda key, value: None,
) -> dict[str, Any]:
    """Run every job and return the values by their keys, in the order of the jobs; ``keep`` is told each at once.

    Raises:
        RunFailed: a job failed.
    """
    values: dict[str, Any] = {}
    if not jobs:
        return {}
    with console.progress(title) as progress:
        executor = make_executor(factory, config.workers, config.ray)
        try:
            for key, job in jobs.items():
                executor.submit(key, job)
            while len(values) < len(jobs):
                progress(len(values), len(jobs))
                outcome = executor.next()
                if outcome.error is not None:
                    raise RunFailed(f"{title}: {outcome.key} failed with {outcome.error}")
                values[str(outcome.key)] = outcome.value
                keep(outcome.key, outcome.value)
            progress(len(values), len(jobs))
        finally:
            executor.close()
    return {key: values[key] for key in jobs}
