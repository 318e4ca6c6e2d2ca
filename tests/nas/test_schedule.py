"""Runs with ``--time``: planned, kept, settled, told; with a search and without. What the parts cost is made up."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes import Quiet, made_up_table, measuring_little, told

from nas import schedule as module
from nas.config import SearchConfig
from nas.delivery.choice import LARGEST
from nas.delivery.front import Front
from nas.folder import open_folder, read_record
from nas.plan import Costs, Plan
from nas.reuse import inherit
from nas.run import run_search
from search_spaces.errors import InputError
from search_spaces.fbnet import FBNetSpace

SPACE = FBNetSpace((1, 8, 8), 10)
# Five epochs of digits take a second, so that a minute is worth many trainings, and a few seconds few.
COSTS = Costs(
    step_s=0.01, step_s_per_mac=0, macs=5e5, rating_s=0.1, proposal_s=0.1, supernet_step_s=10, supernet_start_s=1,
    delivery_s=0.1, measuring_s=0.1, steps=17, layers=8, workers=1,
    devices=1,
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """Measure little, and let epochs seem to take what ``COSTS`` says."""
    with measuring_little() as patch:
        patch.setattr(module, "measure_costs", lambda *_: COSTS)
        patch.setattr(module, "time_steps", lambda *_: (10.0, 0.0))  # the machine has become slow
        yield


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("table") / "cpu.json"
    made_up_table(SPACE).save(path)
    return path


def search(out: Path, table: Path | None, **given: Any) -> tuple[Front, Quiet]:
    config = SearchConfig.checked(data="digits", out=out, table=table, **given)
    console = Quiet()
    with open_folder(config, "nas search") as folder:
        front = run_search(config, folder, console)
        folder.save()
    return front, console


GIVEN: dict[str, Any] = {"time": "3m", "trials": 4, "finalists": 1, "family": 1, "sampler": "random", "proxy_epochs": 1}


@pytest.fixture(scope="module")
def searched(table: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Front, Quiet]:
    out = tmp_path_factory.mktemp("runs") / "run"
    return out, *search(out, table, **GIVEN)


def plan_of(out: Path) -> Plan:
    content = json.loads((out / "plan.json").read_text())
    return Plan.from_json({name: content[name] for name in content if name not in ("schema_version", "sha256")})


def test_plan_decides_what_was_not_given(searched: tuple[Path, Front, Quiet]) -> None:
    out, front, console = searched
    plan, record = plan_of(out), read_record(out)
    assert plan.search and plan.settings["oracle"] == "train" and not (out / "supernet.safetensors").exists()
    assert {name: plan.settings[name] for name in ("trials", "finalists", "family", "proxy_epochs")} == {
        name: GIVEN[name] for name in ("trials", "finalists", "family", "proxy_epochs")
    }
    assert len(told(out / "study.journal")) == 4
    assert list(record["stages"]) == [
        "data", "table", "plan", "oracle", "rank check", "search", "finalists", "front"
    ]  # fmt: skip
    assert {c.origin for d in front.devices for c in (*d.candidates, *d.rejected)} >= {"baseline"}
    assert record["planned"] == plan.settings and any("s are planned, 5% is kept" in text for text in console.said)


def test_epochs_are_settled_by_what_is_left(searched: tuple[Path, Front, Quiet]) -> None:
    out, _, console = searched
    plan = plan_of(out)
    # Hundreds were planned; at 170 s an epoch, one is all there is, and nobody hides it.
    assert plan.settings["final_epochs"] == 1
    assert plan.settled in console.said and "were planned" in plan.settled
    lines = read_record(out)["report"]["time"]
    assert lines["given"] == "180 s" and lines["final training"] == plan.settled and "plan" in lines
    assert {f"{name}, planned and used" for name in ("table", "search", "finalists", "front", "all")} <= lines.keys()


def test_resumed_with_the_same_plan(
    searched: tuple[Path, Front, Quiet], table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, front, _ = searched
    before, trials = (out / "plan.json").read_bytes(), told(out / "study.journal")

    def never(*_: object) -> None:
        raise AssertionError("the plan is there")

    monkeypatch.setattr(module, "measure_costs", never)
    monkeypatch.setattr(module, "time_steps", never)
    again, _ = search(out, table, **GIVEN)
    assert again == front and (out / "plan.json").read_bytes() == before
    assert told(out / "study.journal") == trials
    with pytest.raises(InputError, match="there --time was 180"):
        search(out, table, **{**GIVEN, "time": "4m"})
    (out / "plan.json").write_bytes(before.replace(b"trials", b"trails"))
    with pytest.raises(InputError, match=r"plan .* is damaged"):
        search(out, table, **GIVEN)
    (out / "plan.json").write_bytes(before)


def test_runs_go_on_from_what_a_plan_decided(searched: tuple[Path, Front, Quiet], tmp_path: Path) -> None:
    config = inherit(searched[0], {"out": tmp_path / "second"})
    assert (config.oracle, config.time, config.proxy_epochs, config.final_epochs) == ("train", None, 1, 1)


def test_too_little_time_for_a_search(table: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    front, console = search(out, table, time="10s", finalists=2, family=1)
    plan, (device,) = plan_of(out), front.devices
    assert not plan.search and told(out / "study.journal") == []
    finalists = (*device.candidates, *device.rejected)
    assert {c.origin for c in finalists} == {LARGEST, "baseline"} and len(finalists) == 3
    assert all(c.search_accuracy is None for c in finalists)
    assert device.comparison and device.comparison.way == "taking the largest network per latency bin"
    assert any("no search, as it will not pay" in text for text in console.said)
    assert "no search, as it will not pay" in read_record(out)["report"]["time"]["plan"]
    front.require_files(out)
    before = {path: path.read_bytes() for path in out.glob("finalists/*")}
    assert search(out, None, time="10s", finalists=2, family=1)[0] == front
    assert {path: path.read_bytes() for path in out.glob("finalists/*")} == before


def test_tables_that_take_all_the_time_are_refused_before(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the blocks alone takes about \d+ s, which is more than the 5 s given"):
        search(tmp_path / "run", None, time="5s")
    assert not (tmp_path / "run").exists()
