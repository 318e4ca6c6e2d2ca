"""The front keeps what nothing beats, says why the rest fell out, and survives the disk."""

import csv
import random
from pathlib import Path

import pytest
from toy_space import ToySpace

from latency.certificate import Certificate
from latency.files import sha256, write_sealed
from nas.delivery.front import (
    SCHEMA_VERSION,
    Candidate,
    DeviceFront,
    Front,
    RecordedCandidate,
    RecordedDevice,
    RecordedFront,
    load_front,
    recorded_candidates,
    select,
)
from nas.search.record import Evaluated
from search_spaces.errors import InputError
from search_spaces.space import enumerate_architectures


def candidate(identity: str, val_accuracy: float, measured_ms: float, test_accuracy: float = 0.5) -> Candidate:
    return Candidate(
        id=identity,
        architecture=f"toy:{identity},x",
        origin="search",
        search_accuracy=0.5,
        val_accuracy=val_accuracy,
        test_accuracy=test_accuracy,
        float_val_accuracy=0.75,
        predicted_ms=1.0,
        accurate_prediction=0.95 <= measured_ms <= 1.05,
        measured_ms=measured_ms,
        measured_ms_low=measured_ms - 0.1,
        measured_ms_high=measured_ms + 0.1,
        macs=1_000_000,
        params=1000,
        onnx=f"models/{identity}.onnx",
        onnx_sha256="0" * 64,
        max_difference=1e-6,
        certificate=f"models/{identity}.certificate.json",
    )


def certificate(one: Candidate) -> Certificate:
    return Certificate(
        model=one.onnx.rpartition("/")[2],
        sha256=one.onnx_sha256,
        device="cpu",
        fingerprint={"cpu": "x"},
        quantity="cold_cpu_ms",
        predicted_ms=one.predicted_ms,
        measured_ms=one.measured_ms,
        measured_ms_low=one.measured_ms_low,
        measured_ms_high=one.measured_ms_high,
        steady_ms=one.measured_ms / 2,
        runs=40,
        protocol={"rounds": 40, "interval_percent": 5.0},
        measured_at="2026-01-02T03:04:05+00:00",
    )


def on(device: str, finalists: list[Candidate], budget_ms: float | None = None) -> DeviceFront:
    front, rejected = select(finalists, budget_ms)
    return DeviceFront(
        device=device, fingerprint={"cpu": "x"}, budget_ms=budget_ms, drift=1.25, host="a quiet host",
        certificates={c.id: certificate(c) for c in finalists}, candidates=front, rejected=rejected,
    )  # fmt: skip


def split(finalists: list[Candidate], budget_ms: float | None = None) -> tuple[list[str], dict[str, str]]:
    """Return the ids on the front, and why the others are not."""
    front, rejected = select(finalists, budget_ms)
    return [c.id for c in front], {c.id: c.reason for c in rejected}


FINALISTS = [
    candidate("slow", 0.95, 9.0),
    candidate("good", 0.90, 4.0),
    candidate("worse", 0.88, 4.5),
    candidate("fast", 0.80, 1.0),
    candidate("same accuracy", 0.90, 4.1),
    candidate("same latency", 0.70, 1.0),
]


def test_select() -> None:
    front, rejected = split(FINALISTS, 8.0)
    assert front == ["fast", "good"]
    assert rejected == {
        "slow": "over the budget of 8.0 ms",
        "worse": "dominated by good",
        "same accuracy": "dominated by good",
        "same latency": "dominated by fast",
    }


def test_select_without_a_budget() -> None:
    front, rejected = split(FINALISTS)
    assert front == ["fast", "good", "slow"] and "slow" not in rejected


def test_budget_itself_is_allowed() -> None:
    assert split([candidate("a", 0.5, 4.0)], 4.0) == (["a"], {})


def test_over_the_budget_dominates_nothing() -> None:
    finalists = [candidate("over", 0.9, 4.001), candidate("under", 0.5, 4.0)]
    assert split(finalists, 4.0) == (["under"], {"over": "over the budget of 4.0 ms"})


def test_equal_points_are_named_once() -> None:
    finalists = [candidate(name, 0.9, 2.0) for name in ("b", "a", "c")]
    assert split(finalists) == (["a"], {"b": "dominated by a", "c": "dominated by a"})


def test_test_accuracy_decides_nothing() -> None:
    finalists = [candidate("a", 0.9, 2.0, test_accuracy=0.1), candidate("b", 0.8, 2.0, test_accuracy=0.99)]
    assert split(finalists)[0] == ["a"]


def test_order_of_the_finalists_does_not_matter() -> None:
    expected = select(FINALISTS, 8.0)
    for seed in range(10):
        assert select(random.Random(seed).sample(FINALISTS, len(FINALISTS)), 8.0) == expected


@pytest.mark.parametrize("seed", range(20))
def test_every_finalist_is_on_the_front_or_dominated_by_the_one_named(seed: int) -> None:
    rng = random.Random(seed)
    finalists = {str(i): candidate(str(i), rng.randint(0, 5) / 5, rng.randint(1, 6)) for i in range(12)}
    front, rejected = split(list(finalists.values()), 5.0)
    assert sorted([*front, *rejected]) == sorted(finalists)
    for name, reason in rejected.items():
        if reason.startswith("over"):
            assert finalists[name].measured_ms > 5
            continue
        better = finalists[reason.removeprefix("dominated by ")]
        assert better.id in front
        assert better.val_accuracy >= finalists[name].val_accuracy
        assert better.measured_ms <= finalists[name].measured_ms
    latencies = [finalists[name].measured_ms for name in front]
    accuracies = [finalists[name].val_accuracy for name in front]
    assert latencies == sorted(set(latencies)) and accuracies == sorted(set(accuracies))


def test_nothing_to_select_from() -> None:
    assert split([], 4.0) == ([], {})


@pytest.fixture
def front() -> Front:
    other = on('board, "two"', FINALISTS[:2])
    return Front(
        space="toy",
        input_shape=(3, 8, 8),
        data="photos",
        data_digest="0" * 64,
        classes=("café", "dog"),
        devices=(on("cpu", FINALISTS, 8.0), other),
    )


def test_round_trip(front: Front, tmp_path: Path) -> None:
    front.save(tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["front.csv", "front.json"]
    loaded = Front.load(tmp_path / "run")
    assert loaded == front
    for device in loaded.devices:
        finalists = (*device.candidates, *device.rejected)
        assert device.certificates == {c.id: certificate(c) for c in finalists}


def test_csv_has_a_row_per_finalist(front: Front, tmp_path: Path) -> None:
    front.save(tmp_path)
    with (tmp_path / "front.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["device", "status", *Candidate.model_fields]
    assert [row["device"] for row in rows] == ["cpu"] * 6 + ['board, "two"'] * 2
    assert [row["status"] for row in rows if row["device"] == "cpu"][:2] == ["front", "front"]
    by_id = {row["id"]: row for row in rows if row["device"] == "cpu"}
    assert by_id["worse"]["status"] == "dominated by good"
    assert float(by_id["good"]["measured_ms"]) == 4.0 and by_id["good"]["architecture"] == "toy:good,x"
    assert by_id["good"]["certificate"] == "models/good.certificate.json"
    assert (by_id["good"]["accurate_prediction"], by_id["fast"]["accurate_prediction"]) == ("False", "True")


def test_empty_front_has_a_header(tmp_path: Path, front: Front) -> None:
    empty = front.model_copy(update={"devices": (on("cpu", [], 1.0),)})
    empty.save(tmp_path)
    header = ",".join(["device", "status", *Candidate.model_fields])
    assert (tmp_path / "front.csv").read_text() == header + "\n"
    assert Front.load(tmp_path) == empty


def test_damaged_fronts(front: Front, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no front: finish its search first"):
        Front.load(tmp_path)
    front.save(tmp_path)
    path = tmp_path / "front.json"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="not valid JSON"):
        Front.load(tmp_path)
    path.write_bytes(whole.replace(b"0.9,", b"0.8,", 1))
    with pytest.raises(InputError, match="checksum"):
        Front.load(tmp_path)
    body = front.model_dump(mode="json")
    unsure = {**body["devices"][0], "drift": None}
    for changed in (
        {**body, "space": None},
        {**body, "extra": 1},
        {**body, "devices": [{}]},
        {**body, "devices": [unsure]},
    ):
        write_sealed(path, SCHEMA_VERSION, changed)
        with pytest.raises(InputError, match="is damaged: "):
            Front.load(tmp_path)
    for version in (1, SCHEMA_VERSION + 1):
        write_sealed(path, version, body)
        with pytest.raises(InputError, match=f"has schema version {version}; this version reads {SCHEMA_VERSION}"):
            Front.load(tmp_path)


def recorded(budget_ms: float | None = None) -> RecordedFront:
    network = RecordedCandidate(
        id="a", architecture="toy:yes,k3,no", origin="search", recorded_accuracy=0.9, ms=2.0, ms_is="recorded",
        macs=10, params=3,
    )  # fmt: skip
    predicted = network.model_copy(update={"ms_is": "predicted", "ms": 0.0})
    devices = [
        RecordedDevice(
            device=name, source=f"table:{name}.csv#ms", source_sha256="0" * 64, ms_is=one.ms_is, budget_ms=budget_ms,
            candidates=(one,),
        )
        for name, one in (("phone", network), ("board", predicted))
    ]  # fmt: skip
    return RecordedFront(
        space="toy", input_shape=(3, 8, 8), classes=10, source="table:a.csv#acc", source_sha256="1" * 64,
        devices=tuple(devices),
    )  # fmt: skip


def test_recorded_front_round_trip(tmp_path: Path, front: Front) -> None:
    recorded(3.0).save(tmp_path)
    assert load_front(tmp_path) == RecordedFront.load(tmp_path) == recorded(3.0)
    assert [device.metric for device in recorded().devices] == ["recorded_ms phone", "predicted_ms board"]
    with (tmp_path / "front.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["device", "status", *RecordedCandidate.model_fields]
    assert [(row["device"], row["ms_is"], float(row["ms"])) for row in rows] == [
        ("phone", "recorded", 2.0), ("board", "predicted", 0.0)
    ]  # fmt: skip
    with pytest.raises(InputError, match="is damaged: "):
        Front.load(tmp_path)
    front.save(tmp_path)
    assert load_front(tmp_path) == front and front.devices[0].metric == "predicted_ms cpu"
    with pytest.raises(InputError, match="is damaged: "):
        RecordedFront.load(tmp_path)


def test_damaged_recorded_fronts(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no front: finish its search first"):
        load_front(tmp_path)
    body = recorded().model_dump(mode="json")
    network = {**body["devices"][0], "candidates": [{**body["devices"][0]["candidates"][0], "onnx": "a.onnx"}]}
    other = {**body, "kind": "other"}
    for changed in ({**body, "classes": None}, {**body, "data": "digits"}, {**body, "devices": [network]}, other):
        write_sealed(tmp_path / "front.json", SCHEMA_VERSION, changed)
        with pytest.raises(InputError, match="is damaged: "):
            load_front(tmp_path)


@pytest.mark.parametrize("seed", range(10))
def test_recorded_candidates_are_what_nothing_beats(seed: int) -> None:
    rng, space = random.Random(seed), ToySpace()
    rated = [
        Evaluated(number, architecture, "search", rng.randint(0, 5) / 5, (1.0, rng.randint(0, 6) / 2))
        for number, architecture in enumerate(enumerate_architectures(space))
    ]
    found = recorded_candidates(space, rated, "recorded", 1)
    points = {(t.accuracy, t.ms[1]) for t in rated}
    front = [p for p in points if not any(a >= p[0] and m <= p[1] and (a, m) != p for a, m in points)]
    assert [(c.recorded_accuracy, c.ms) for c in found] == sorted(front, key=lambda p: p[1])
    for c in found:
        assert (c.macs, c.params) == (
            space.macs(space.parse(c.architecture)),
            space.params(space.parse(c.architecture)),
        )
    assert len(recorded_candidates(space, rated, "predicted", 0)) == 1


def test_networks_must_be_the_files_that_were_measured(tmp_path: Path) -> None:
    content = b"network"
    finalist = FINALISTS[0].model_copy(update={"onnx": "models/a.onnx", "onnx_sha256": sha256(content)})
    front = Front(
        space="s", input_shape=(1, 8, 8), data="d", data_digest="x", classes=("a", "b"),
        devices=(on("cpu", [finalist]),),
    )  # fmt: skip
    with pytest.raises(InputError, match=r"models/a\.onnx is missing or has changed"):
        front.require_files(tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "a.onnx").write_bytes(content)
    front.require_files(tmp_path)
    (tmp_path / "models" / "a.onnx").write_bytes(content[:-1])
    with pytest.raises(InputError, match="has changed"):
        front.require_files(tmp_path)
