"""Which candidates keep the budget when they are measured: asked before they are trained, which costs far more."""

from collections.abc import Sequence

from latency.device import Device
from latency.models import network_models, seeded
from nas.delivery.finalists import choose_finalists
from nas.delivery.measured import Measurement, measure_kept
from nas.devices import Progress, on_each
from nas.folder import RunFolder
from nas.measuring import Console, names
from nas.search.record import Evaluated
from nas.search.target import TableTarget

# So many times as many candidates as are to be trained are measured. Predictions err by a few percent either way, and
# what a search finds lies just below its budget.
WIDER = 3


def shortlist(
    folder: RunFolder,
    console: Console,
    devices: list[Device],
    targets: Sequence[TableTarget],
    rated: Sequence[Evaluated],
    count: int,
) -> list[Evaluated]:
    """Return what of ``rated`` may be trained, before ``count`` of it are chosen for each device.

    The best candidates are measured with random weights, and those that exceed a budget are left out, unless all do.
    What was measured is kept: a resumed run chooses alike.
    """
    chosen = {t.architecture.id: t for n in range(len(targets)) for t in choose_finalists(rated, WIDER * count, n)}

    def work(device: Device, progress: Progress) -> Measurement:
        target = targets[devices.index(device)]
        with seeded(0):  # the same files when the run is resumed
            models = network_models(target.space, [trial.architecture for trial in chosen.values()], device)
        return measure_kept(folder.shortlist(device), device, models, progress)

    found = on_each(devices, console.progress(f"measuring candidates on {names(devices)}"), work)
    within = [trial for trial in chosen.values() if _keeps(trial, targets, found)]
    console.say(f"{len(within)} of the {len(chosen)} best candidates keep the budget when they are measured")
    folder.record["report"]["shortlist, measured before training"] = {
        "candidates": str(len(chosen)), "within the budget": str(len(within))
    }  # fmt: skip
    return within or list(chosen.values())


def _keeps(trial: Evaluated, targets: Sequence[TableTarget], found: Sequence[Measurement]) -> bool:
    text = trial.architecture.text
    return all(
        target.budget_ms is None or measurement.latency[text].ms <= target.budget_ms
        for target, measurement in zip(targets, found, strict=True)
    )
