"""How the trainings of a run went: the loss of each epoch, and where the finalists ended."""

from dataclasses import dataclass
from pathlib import Path

from latency.files import read_sealed
from nas.delivery.finalists import SCHEMA_VERSION
from nas.training.checkpoint import losses


@dataclass(frozen=True)
class Curve:
    """The mean training loss of each epoch, NaN for those to come, and a finalist's validation accuracy in [0, 1]."""

    name: str
    losses: tuple[float, ...]
    val_accuracy: float | None = None


def learning_curves(folder: Path) -> list[Curve]:
    """Return the curves of the supernet and of the finalists of a run, as far as their checkpoints are there.

    A block-wise supernet has one per stage, of a loss without labels.

    Raises:
        InputError: a checkpoint or a record is damaged.
    """
    supernet = folder / "supernet.safetensors"
    curves = [Curve("supernet", tuple(losses(supernet)))] if supernet.exists() else []
    for checkpoint in sorted((folder / "blockwise").glob("stage*.safetensors")):
        curves.append(Curve(f"{checkpoint.stem}, without labels", tuple(losses(checkpoint))))
    for checkpoint in sorted((folder / "finalists").glob("*.safetensors")):
        record, accuracy = checkpoint.with_suffix(".json"), None
        if record.exists():
            accuracy = read_sealed(record, SCHEMA_VERSION, "finalist")["files"][""]["val_accuracy"]
        curves.append(Curve(checkpoint.stem, tuple(losses(checkpoint)), accuracy))
    return [curve for curve in curves if curve.losses]
