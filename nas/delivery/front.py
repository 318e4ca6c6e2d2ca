"""The front on disk: the feasible, non-dominated candidates of each device, verified or from recorded tables."""

from abc import abstractmethod
from pathlib import Path
from typing import Any, Literal, Self

import pandas as pd
from pydantic import BaseModel, ConfigDict, ValidationError

from latency.certificate import Certificate
from latency.files import kind_of, read_sealed, sha256, write_sealed, write_text
from nas.delivery.value import Comparison
from nas.search.pareto import non_dominated
from nas.search.record import Evaluated
from nas.search.target import Kind, metric
from search_spaces.errors import InputError
from search_spaces.space import SearchSpace

SCHEMA_VERSION = 4


class Candidate(BaseModel):
    """A network that was trained to the end, exported, checked and re-measured on one device.

    Accuracies are fractions in [0, 1], latencies ms of one inference, ``macs`` and ``params`` counts.
    ``search_accuracy`` is what the search's oracle gave it (a prediction of ``val_accuracy``), or None;
    ``search_score`` is what an oracle gave it whose ratings are scores in [0, 1] that predict no accuracy, or None;
    ``measured_ms_low`` and ``measured_ms_high`` bound the 90 % bootstrap interval of ``measured_ms``;
    ``accurate_prediction`` tells that ``measured_ms`` is within 5 % of ``predicted_ms``. The accuracies are those of
    the file ``onnx``; ``float_val_accuracy`` is that of the network before any quantisation. ``max_difference`` is
    the largest absolute difference of the file's scores from PyTorch's. ``certificate`` is the file that vouches for
    the latency.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    id: str
    architecture: str
    origin: str
    search_accuracy: float | None
    search_score: float | None = None
    val_accuracy: float
    test_accuracy: float
    float_val_accuracy: float
    predicted_ms: float
    accurate_prediction: bool
    measured_ms: float
    measured_ms_low: float
    measured_ms_high: float
    macs: int
    params: int
    onnx: str
    onnx_sha256: str
    max_difference: float
    certificate: str


class Rejected(Candidate):
    """A verified finalist that is not on the front, with the reason."""

    reason: str


class DeviceFront(BaseModel):
    """The front of one device: ``candidates`` by rising latency, and the finalists that fell out.

    ``drift`` is the device's latency now over that of when its table was built, by networks measured both times:
    predictions are of then, measurements of now. ``certificates`` vouch for every file measured on the device, by the
    id of its network; ``host`` says how quiet the machine was. ``comparison`` sets the search's own networks beside
    the hand-made family's.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    device: str
    fingerprint: dict[str, str]
    budget_ms: float | None
    drift: float
    host: str
    certificates: dict[str, Certificate]
    candidates: tuple[Candidate, ...]
    rejected: tuple[Rejected, ...]
    comparison: Comparison | None = None

    @property
    def metric(self) -> str:
        """The name of this device's latency in the study."""
        return metric("predicted", self.device)

    @property
    def compared(self) -> str:
        """The comparison with the hand-made family in a sentence."""
        if self.comparison is None:
            return "no comparison with the hand-made family: it takes networks of both within the budget (--family)"
        return self.comparison.sentence()


class RecordedCandidate(BaseModel):
    """A network as the tables have it: its recorded accuracy in [0, 1], and its latency (ms), ``ms_is`` says how known.

    ``macs`` and ``params`` are counted here.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    id: str
    architecture: str
    origin: str
    recorded_accuracy: float
    ms: float
    ms_is: Kind
    macs: int
    params: int


class RecordedDevice(BaseModel):
    """The front of one device by recorded tables: ``candidates`` by rising latency.

    ``source`` is the table that latencies are from and ``source_sha256`` the digest of its file.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    device: str
    source: str
    source_sha256: str
    ms_is: Kind
    budget_ms: float | None
    candidates: tuple[RecordedCandidate, ...]

    @property
    def metric(self) -> str:
        """The name of this device's latency in the study."""
        return metric(self.ms_is, self.device)


class _Saved(BaseModel):
    """What ``front.json`` holds; ``kind`` tells which of the two it is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def save(self, folder: Path) -> None:
        """Write ``front.json`` and ``front.csv`` into ``folder``."""
        write_sealed(folder / "front.json", SCHEMA_VERSION, self.model_dump(mode="json"))
        write_text(folder / "front.csv", self.table().to_csv(index=False))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read ``front.json`` of ``folder``.

        Raises:
            InputError: the file is missing, damaged, of another kind or of another schema version.
        """
        path = folder / "front.json"
        if not path.exists():
            raise InputError(f"{folder} holds no front: finish its search first, with the same `nas search` command")
        body = read_sealed(path, SCHEMA_VERSION, "front")
        try:
            return cls.model_validate(body)
        except ValidationError as error:
            raise InputError(f"front {path} is damaged: {error.errors()[0]['msg']}") from None

    @abstractmethod
    def table(self) -> pd.DataFrame:
        """Return one row per network, with its ``device`` and ``status``."""


class Front(_Saved):
    """All fronts of a run."""

    kind: Literal["measured"] = "measured"
    space: str
    input_shape: tuple[int, int, int]
    data: str
    data_digest: str
    classes: tuple[str, ...]
    devices: tuple[DeviceFront, ...]

    def require_files(self, folder: Path) -> None:
        """Raise ``InputError`` unless every network of ``folder`` is the file that was checked and measured."""
        for device in self.devices:
            for network in (*device.candidates, *device.rejected):
                path = folder / network.onnx
                if not path.exists() or sha256(path.read_bytes()) != network.onnx_sha256:
                    raise InputError(
                        f"{path} is missing or has changed; `nas search` with the same settings makes it anew"
                    )

    def table(self) -> pd.DataFrame:
        """Return every finalist as a row, with its ``device`` and ``status`` (``front`` or the reason)."""
        rows: list[dict[str, Any]] = []
        for device in self.devices:
            for candidate in device.candidates:
                rows.append({"device": device.device, "status": "front", **candidate.model_dump()})
            for rejected in device.rejected:
                values = rejected.model_dump()
                rows.append({"device": device.device, "status": values.pop("reason"), **values})
        columns = ["device", "status", *Candidate.model_fields]
        return pd.DataFrame(rows, columns=columns)


class RecordedFront(_Saved):
    """All fronts of a search on recorded tables: nothing was trained, measured or delivered.

    ``source`` is the table that accuracies are from and ``source_sha256`` the digest of its file; MACs and parameters
    are those at ``input_shape`` and ``classes``.
    """

    kind: Literal["recorded"] = "recorded"
    space: str
    input_shape: tuple[int, int, int]
    classes: int
    source: str
    source_sha256: str
    devices: tuple[RecordedDevice, ...]

    def table(self) -> pd.DataFrame:
        """Return every network of the fronts as a row, with its ``device`` and ``status`` (``front``)."""
        rows = [
            {"device": device.device, "status": "front", **candidate.model_dump()}
            for device in self.devices
            for candidate in device.candidates
        ]
        return pd.DataFrame(rows, columns=["device", "status", *RecordedCandidate.model_fields])


def load_front(folder: Path) -> Front | RecordedFront:
    """Read ``front.json`` of ``folder``, of either kind.

    Raises:
        InputError: the file is missing, damaged or of another schema version.
    """
    return RecordedFront.load(folder) if kind_of(folder / "front.json") == "recorded" else Front.load(folder)


def recorded_candidates(
    space: SearchSpace, rated: list[Evaluated], kind: Kind, number: int
) -> tuple[RecordedCandidate, ...]:
    """Return what nothing ``rated`` beats on device ``number`` of the study, by rising latency."""
    keep = non_dominated([(trial.accuracy, trial.ms[number]) for trial in rated])
    front = [trial for trial, kept in zip(rated, keep, strict=True) if kept]
    return tuple(
        RecordedCandidate(
            id=trial.architecture.id, architecture=trial.architecture.text, origin=trial.origin,
            recorded_accuracy=trial.accuracy, ms=trial.ms[number], ms_is=kind,
            macs=space.macs(trial.architecture), params=space.params(trial.architecture),
        )
        for trial in sorted(front, key=lambda trial: trial.ms[number])
    )  # fmt: skip


def select(finalists: list[Candidate], budget_ms: float | None) -> tuple[tuple[Candidate, ...], tuple[Rejected, ...]]:
    """Split verified ``finalists`` into the front (by validation accuracy and measured latency) and the rest."""
    ordered = sorted(finalists, key=lambda c: (c.measured_ms, -c.val_accuracy, c.id))
    over = [c for c in ordered if budget_ms is not None and c.measured_ms > budget_ms]
    feasible = [c for c in ordered if c not in over]
    keep = non_dominated([(c.val_accuracy, c.measured_ms) for c in feasible])
    front = [c for c, kept in zip(feasible, keep, strict=True) if kept]
    rejected = [Rejected(**c.model_dump(), reason=f"over the budget of {budget_ms} ms") for c in over]
    for candidate, kept in zip(feasible, keep, strict=True):
        if not kept:
            better = next(
                f for f in front if f.measured_ms <= candidate.measured_ms and f.val_accuracy >= candidate.val_accuracy
            )
            rejected.append(Rejected(**candidate.model_dump(), reason=f"dominated by {better.id}"))
    return tuple(front), tuple(rejected)
