"""A made-up run: 100 trials of which 12 are over the budget, 6 networks on the front and 2 rejected."""

import hashlib

import numpy as np
import pandas as pd
import pytest

from nas.delivery.front import Candidate, DeviceFront, RecordedCandidate, RecordedDevice, select

BUDGET_MS = 12.0
DEVICE = "x86-64 laptop, 4 cores & $HOME <1 thread>"


def _accuracy(milliseconds: float) -> float:
    return 0.78 - 0.35 / milliseconds


def _architecture(rng: np.random.Generator) -> str:
    options = [f"k{k}e{e}" for k in (3, 5, 7) for e in (1, 3, 6)] + ["skip"]
    return "fbnet:" + ",".join(rng.choice(options, size=22))


@pytest.fixture
def trials() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = []
    for number in range(100):
        origin = "random" if number < 20 else "baseline" if number < 28 else "search"
        predicted_ms = float(rng.uniform(2.5, 11.9) if number % 25 < 22 else rng.uniform(12.1, 17))
        evaluated = predicted_ms <= BUDGET_MS
        loss = rng.exponential(0.05 if origin == "random" else 0.02)
        architecture = _architecture(rng)
        rows.append(
            {
                "trial": number,
                "id": hashlib.sha256(architecture.encode()).hexdigest()[:10],
                "architecture": architecture,
                "origin": origin,
                "evaluated": evaluated,
                "feasible": evaluated,
                "accuracy": _accuracy(predicted_ms) - loss if evaluated else float("nan"),
                "score": float("nan"),
                "ms": predicted_ms,
                "macs": int(predicted_ms * 3.1e7),
                "params": int(predicted_ms * 4.2e5),
            }
        )
    table = pd.DataFrame(rows)
    table.loc[5, "accuracy"] = 0.1  # at chance level
    return table


def _finalist(row: dict, place: int, measured_ms: float, val_accuracy: float) -> Candidate:
    return Candidate(
        id=row["id"],
        architecture=row["architecture"],
        origin=row["origin"],
        search_accuracy=row["accuracy"],
        val_accuracy=val_accuracy,
        test_accuracy=val_accuracy - 0.004,
        float_val_accuracy=val_accuracy,
        predicted_ms=row["ms"],
        accurate_prediction=abs(measured_ms / row["ms"] - 1) <= 0.05,
        measured_ms=measured_ms,
        measured_ms_low=measured_ms - 0.15,
        measured_ms_high=measured_ms + 0.25,
        macs=row["macs"],
        params=row["params"],
        onnx=f"networks/{place} {row['id']}.onnx",
        onnx_sha256="0" * 64,
        max_difference=1e-6,
        certificate=f"networks/{place} {row['id']}.certificate.json",
    )


@pytest.fixture
def device_front(trials: pd.DataFrame) -> DeviceFront:
    """Six on the front (one of the baseline family), one dominated, one over the budget when measured."""
    evaluated = trials[trials["accuracy"] > 0.2].sort_values("ms").reset_index(drop=True)
    baselines = evaluated.index[evaluated["origin"] == "baseline"]
    places = [2, 14, int(baselines[3]), 45, 58, 70, 50, len(evaluated) - 1]
    rows = [evaluated.loc[place].to_dict() for place in sorted(places[:6])]
    finalists = [
        _finalist(row, place, row["ms"] * 1.04, 0.025 + _accuracy(row["ms"])) for place, row in enumerate(rows)
    ]
    dominated, over = evaluated.loc[places[6]].to_dict(), evaluated.loc[places[7]].to_dict()
    finalists.append(_finalist(dominated, 6, dominated["ms"] * 1.1, dominated["accuracy"]))
    finalists.append(_finalist(over, 7, BUDGET_MS + 0.4, 0.76))
    fingerprint = {"cpu": "AMD EPYC <7B13>", "runtime": "onnxruntime 1.22", "threads": "1"}
    front, rejected = select(finalists, BUDGET_MS)
    return DeviceFront(
        device=DEVICE, fingerprint=fingerprint, budget_ms=BUDGET_MS, drift=1.02, host="a quiet host",
        certificates={}, candidates=front, rejected=rejected,
    )  # fmt: skip


@pytest.fixture
def recorded_device(trials: pd.DataFrame) -> RecordedDevice:
    """Five networks of recorded tables, the second of the baseline family."""
    evaluated = trials[trials["accuracy"] > 0.2].sort_values("accuracy").reset_index(drop=True)
    rows = [row for _, row in evaluated.iloc[[3, 20, 40, 60, 80]].sort_values("ms").iterrows()]
    candidates = tuple(
        RecordedCandidate(
            id=row["id"], architecture=row["architecture"], origin="baseline" if place == 1 else "search",
            recorded_accuracy=row["accuracy"], ms=row["ms"], ms_is="recorded", macs=row["macs"], params=row["params"],
        )
        for place, row in enumerate(rows)
    )  # fmt: skip
    return RecordedDevice(
        device=DEVICE, source="table:<b>.csv#ms", source_sha256="0" * 64, ms_is="recorded", budget_ms=BUDGET_MS,
        candidates=candidates,
    )  # fmt: skip
