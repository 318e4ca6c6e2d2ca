"""A run's tables are found, made or mended; its finalists get fronts and a certificate per file and device."""

from pathlib import Path
from typing import Any

import pytest
from fakes import MadeUpDevice, Quiet

from latency import build
from latency.build import build_table
from latency.certificate import Certificate
from latency.device import Device
from latency.files import sha256
from latency.host import fingerprint
from latency.models import network_models, spread_networks
from latency.table import LatencyTable
from nas.config import SearchConfig
from nas.delivery import measured as measured_module
from nas.delivery.choice import LARGEST, Finalist
from nas.delivery.finalists import ModelFile, Trained
from nas.delivery.front import DeviceFront
from nas.folder import RunFolder
from nas.measuring import device_fronts, make_targets, names
from nas.search.target import TableTarget
from search_spaces.errors import InputError
from search_spaces.fbnet import FBNetSpace

SPACE = FBNetSpace((1, 8, 8), 10)
CPU, TWO, INT8 = DEVICES = [Device.parse(name) for name in ("cpu", "cpu:threads=2", "cpu:int8")]
NETWORKS = spread_networks(SPACE, 4, seed=7)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> MadeUpDevice:
    made_up = MadeUpDevice(SPACE)
    monkeypatch.setattr(build, "measure", made_up)
    monkeypatch.setattr(measured_module, "measure", made_up)
    return made_up


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run", {"report": {}})


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LatencyTable]:
    """A table of the made-up device by each of its names."""
    place = tmp_path_factory.mktemp("tables")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "measure", MadeUpDevice(SPACE))
        return {one.name: build_table(SPACE, one, place / one.slug) for one in DEVICES}


def config(folder: RunFolder, devices: list[Device], **values: Any) -> SearchConfig:
    return SearchConfig.checked(data="digits", out=folder.path, device=tuple(d.name for d in devices), **values)


def targets_of(
    folder: RunFolder, devices: list[Device], console: Quiet | None = None, **values: Any
) -> list[TableTarget]:
    return make_targets(config(folder, devices, **values), folder, console or Quiet(), SPACE, devices)


# --- tables


def test_missing_tables_are_measured_once(device: MadeUpDevice, folder: RunFolder) -> None:
    console = Quiet()
    targets = targets_of(folder, [CPU, TWO], console, budget_ms=1.0)
    assert [target.table.device for target in targets] == ["cpu", "cpu:threads=2"]
    assert all((target.space, target.budget_ms) == (SPACE, 1.0) for target in targets)
    assert [LatencyTable.load(folder.table(one)) for one in (CPU, TWO)] == [target.table for target in targets]
    assert list(console.bars) == ["measuring blocks on cpu, cpu:threads=2"] and len(device.asked) == 2
    assert [text.partition(":")[0] for text in console.said] == ["latency table of cpu"] * 2
    for one in (CPU, TWO):
        lines = folder.record["report"][f"latency table of {one.name}, on unseen networks"]
        assert lines["networks"] == "16" and lines["host while measuring"] == "quiet"
    again = Quiet()
    assert targets_of(folder, [CPU, TWO], again, budget_ms=1.0) == targets and len(device.asked) == 2
    assert list(again.bars) == ["reading the latency tables"]


def test_given_table_becomes_the_run_s_own(
    device: MadeUpDevice, folder: RunFolder, tables: dict[str, LatencyTable], tmp_path: Path
) -> None:
    tables["cpu"].save(tmp_path / "given.json")
    for _ in range(2):
        (target,) = targets_of(folder, [CPU], table=tmp_path / "given.json")
        assert target.table == tables["cpu"] == LatencyTable.load(folder.table(CPU))
    assert targets_of(folder, [CPU])[0].table == tables["cpu"] and device.asked == []


def test_another_given_table_is_refused(
    device: MadeUpDevice, folder: RunFolder, tables: dict[str, LatencyTable], tmp_path: Path
) -> None:
    tables["cpu"].save(folder.table(CPU))
    tables["cpu"].model_copy(update={"session_ms": 0.25}).save(tmp_path / "given.json")
    with pytest.raises(InputError, match=r"was begun with another table than .*given.json; leave --table out"):
        targets_of(folder, [CPU], table=tmp_path / "given.json")
    assert LatencyTable.load(folder.table(CPU)) == tables["cpu"]


def without(table: LatencyTable, count: int) -> LatencyTable:
    """Return the table as an older version of the space left it: without some of its blocks."""
    return table.model_copy(update={"blocks": dict(list(table.blocks.items())[count:])})


def test_missing_blocks_are_added(
    device: MadeUpDevice, folder: RunFolder, tables: dict[str, LatencyTable], tmp_path: Path
) -> None:
    part = without(tables["cpu"], 3)
    part.save(tmp_path / "given.json")
    (target,) = targets_of(folder, [CPU], table=tmp_path / "given.json")
    assert target.table.extends(part) and target.table.blocks.keys() == tables["cpu"].blocks.keys()
    assert LatencyTable.load(folder.table(CPU)) == target.table
    assert LatencyTable.load(tmp_path / "given.json") == part and len(device.asked) == 1
    # The same command resumes, with what it measured.
    assert targets_of(folder, [CPU], table=tmp_path / "given.json") == [target] and len(device.asked) == 1
    assert targets_of(folder, [CPU]) == [target] and len(device.asked) == 1


@pytest.mark.parametrize("own", [True, False])
def test_tables_of_another_machine_are_refused(
    own: bool, device: MadeUpDevice, folder: RunFolder, tables: dict[str, LatencyTable], tmp_path: Path
) -> None:
    elsewhere = {**tables["cpu"].fingerprint, "cpu": "abacus"}
    path = folder.table(CPU) if own else tmp_path / "given.json"
    tables["cpu"].model_copy(update={"fingerprint": elsewhere}).save(path)
    with pytest.raises(InputError, match="its cpu is 'abacus'"):
        targets_of(folder, [CPU], table=None if own else path)
    assert folder.table(CPU).exists() is own


def test_one_table_is_of_one_device(
    device: MadeUpDevice, folder: RunFolder, tables: dict[str, LatencyTable], tmp_path: Path
) -> None:
    tables["cpu"].save(tmp_path / "given.json")
    with pytest.raises(InputError, match="its device is 'cpu', here it is 'cpu:threads=2'"):
        targets_of(folder, [CPU, TWO], table=tmp_path / "given.json")


def test_noise_is_said(device: MadeUpDevice, folder: RunFolder, tables: dict[str, LatencyTable]) -> None:
    noisy = tables["cpu"].session.model_copy(update={"noisy": True})
    tables["cpu"].model_copy(update={"session": noisy}).save(folder.table(CPU))
    console = Quiet()
    targets_of(folder, [CPU], console)
    assert console.said[0].endswith("(measured on a noisy host)")


def test_tables_far_off_are_refused_unless_accepted(
    device: MadeUpDevice, folder: RunFolder, tables: dict[str, LatencyTable]
) -> None:
    bad = tables["cpu"].quality.model_copy(update={"mape_percent": 20.0})
    tables["cpu"].model_copy(update={"quality": bad}).save(folder.table(CPU))
    with pytest.raises(InputError, match=r"the latency table of cpu is too far off .*error 20.0 %.*--accept-table"):
        targets_of(folder, [CPU])
    assert len(targets_of(folder, [CPU], accept_table=True)) == 1


def test_budget_must_be_within_reach(device: MadeUpDevice, folder: RunFolder, tables: dict[str, LatencyTable]) -> None:
    tables["cpu"].save(folder.table(CPU))
    least = min(tables["cpu"].predict_ms(SPACE.blocks(a)) for a in spread_networks(SPACE, 300, seed=0))
    with pytest.raises(InputError, match=r"--budget-ms .* is below the fastest network of fbnet/small-8 on cpu: .* ms"):
        targets_of(folder, [CPU], budget_ms=least / 2)
    assert targets_of(folder, [CPU], budget_ms=least)[0].budget_ms == least


# --- finalists

FORMS = {"": "", "int8": ".int8"}
IMAGES = 400
FACTORS = [1.04, 1.06, 0.96, 0.94]


@pytest.fixture(scope="module")
def contents() -> dict[str, dict[str, bytes]]:
    """The files of each form by the architecture's id."""
    models = {one.form: network_models(SPACE, NETWORKS, one) for one in (CPU, INT8)}
    return {form: {a.id: models[form][a.text] for a in NETWORKS} for form in FORMS}


@pytest.fixture
def trained(folder: RunFolder, contents: dict[str, dict[str, bytes]], device: MadeUpDevice) -> list[Trained]:
    (folder.path / "models").mkdir(parents=True)
    finalists = []
    for number, architecture in enumerate(NETWORKS):
        files = {}
        for form, ending in FORMS.items():
            path, content = f"models/{architecture.id}{ending}.onnx", contents[form][architecture.id]
            (folder.path / path).write_bytes(content)
            accuracy = 0.5 + 0.1 * number - 0.01 * len(form)
            files[form] = ModelFile(path, sha256(content), accuracy, accuracy - 0.02, 1e-6)
        finalists.append(Trained(architecture.id, architecture.text, files))
        device.called[architecture.id] = architecture
    return finalists


def rated(factors: list[float], device: MadeUpDevice) -> list[Finalist]:
    """Return the finalists with predictions that the first made-up device exceeds by ``factors``; others differ."""
    return [
        Finalist(a, "search", 0.4, tuple(device.network_ms(a) / factors[n] * (1 + i) for i in range(len(DEVICES))))
        for n, a in enumerate(NETWORKS)
    ]


@pytest.fixture
def fronts(
    folder: RunFolder, tables: dict[str, LatencyTable], trained: list[Trained], device: MadeUpDevice
) -> tuple[DeviceFront, ...]:
    targets = [TableTarget(SPACE, tables[one.name], None) for one in DEVICES]
    trials = rated(FACTORS, device)
    for target in targets:
        folder.record["report"][f"latency table of {target.table.device}, on unseen networks"] = {}
    device.factor = 1.25
    return device_fronts(folder, Quiet(), DEVICES, targets, trials, trained, IMAGES)


def test_a_front_per_device(fronts: tuple[DeviceFront, ...], folder: RunFolder, device: MadeUpDevice) -> None:
    assert [front.device for front in fronts] == [one.name for one in DEVICES]
    for front, one in zip(fronts, DEVICES, strict=True):
        finalists = (*front.candidates, *front.rejected)
        assert {c.id for c in finalists} == {a.id for a in NETWORKS}
        assert front.fingerprint == fingerprint(one) and front.host.startswith("a quiet host")
        assert front.drift == pytest.approx(1.25)
        report = folder.record["report"][f"latency table of {one.name}, on unseen networks"]
        assert report["latency now / when the table was built"] == "1.250"
        for candidate in finalists:
            ending = FORMS[one.form]
            assert candidate.onnx == f"models/{candidate.id}{ending}.onnx"
            assert candidate.onnx_sha256 == sha256((folder.path / candidate.onnx).read_bytes())
            architecture = SPACE.parse(candidate.architecture)
            assert (candidate.macs, candidate.params) == (SPACE.macs(architecture), SPACE.params(architecture))
            lost = 0.04 if one.form else 0.0
            assert candidate.val_accuracy == pytest.approx(candidate.float_val_accuracy - lost)
            factor = FACTORS[NETWORKS.index(architecture)]
            assert candidate.predicted_ms * factor == pytest.approx(
                device.network_ms(architecture) / 1.25 * (1 + DEVICES.index(one))
            )


def test_every_file_and_device_has_a_certificate_of_its_own(fronts: tuple[DeviceFront, ...], folder: RunFolder) -> None:
    endings = {"cpu": "", "cpu:threads=2": ".cpu-threads=2", "cpu:int8": ".int8"}
    expected = {f"{a.id}{ending}.certificate.json" for a in NETWORKS for ending in endings.values()}
    assert {path.name for path in (folder.path / "models").glob("*.json")} == expected
    for front, one in zip(fronts, DEVICES, strict=True):
        for candidate in (*front.candidates, *front.rejected):
            assert candidate.certificate == f"models/{candidate.id}{endings[one.name]}.certificate.json"
            path = folder.path / candidate.certificate
            certificate = Certificate.load(path)
            assert certificate == front.certificates[candidate.id]
            assert certificate.content(path.parent) == (folder.path / candidate.onnx).read_bytes()
            assert certificate.same_device() == one and certificate.quantity == one.quantity
            same = ("predicted_ms", "measured_ms", "measured_ms_low", "measured_ms_high")
            assert [getattr(certificate, name) for name in same] == [getattr(candidate, name) for name in same]
            assert certificate.steady_ms == certificate.measured_ms / 2
            assert certificate.same_protocol() == measured_module.PROTOCOL and certificate.runs == 40


def test_predictions_that_held_are_told_from_those_that_did_not(
    folder: RunFolder, tables: dict[str, LatencyTable], trained: list[Trained], device: MadeUpDevice
) -> None:
    targets = [TableTarget(SPACE, tables["cpu"], None)]
    trials = rated([1.049, 1.051, 0.951, 0.949], device)
    folder.record["report"]["latency table of cpu, on unseen networks"] = {}
    (front,) = device_fronts(folder, Quiet(), [CPU], targets, trials, trained, IMAGES)
    found = {c.id: c.accurate_prediction for c in (*front.candidates, *front.rejected)}
    assert [found[a.id] for a in NETWORKS] == [True, False, True, False]
    assert front.drift == pytest.approx(1)


def test_what_is_too_slow_now_is_not_on_the_front(
    folder: RunFolder, tables: dict[str, LatencyTable], trained: list[Trained], device: MadeUpDevice
) -> None:
    trials = rated([1.0] * 4, device)
    budget = sorted(device.network_ms(a) for a in NETWORKS)[1] * 1.01
    folder.record["report"]["latency table of cpu, on unseen networks"] = {}
    console = Quiet()
    (front,) = device_fronts(
        folder, console, [CPU], [TableTarget(SPACE, tables["cpu"], budget)], trials, trained, IMAGES
    )
    assert front.budget_ms == budget and max(c.measured_ms for c in front.candidates) < budget
    assert sum(r.reason.startswith("over the budget") for r in front.rejected) == 2
    assert console.said[0].startswith("cpu is now at 1.000 x the latency of when its table was built; a quiet host")


@pytest.mark.parametrize(("origin", "way"), [("search", "the search"), (LARGEST, "taking the largest network per la")])
def test_family_is_compared_on_what_keeps_the_budget(
    origin: str, way: str, folder: RunFolder, tables: dict[str, LatencyTable], trained: list[Trained],
    device: MadeUpDevice,
) -> None:  # fmt: skip
    trials = sorted(rated([1.0] * 4, device), key=lambda t: t.ms)
    budget = trials[2].ms[0] * 1.01
    origins = [origin, "baseline", "baseline", "baseline"]
    trials = [Finalist(t.architecture, o, None, t.ms) for t, o in zip(trials, origins, strict=True)]
    folder.record["report"]["latency table of cpu, on unseen networks"] = {}
    (front,) = device_fronts(
        folder, Quiet(), [CPU], [TableTarget(SPACE, tables["cpu"], budget)], trials, trained, IMAGES
    )
    found = front.comparison
    assert found is not None and found.way.startswith(way) and (found.networks, found.family) == (1, 2)
    assert (found.low_ms, found.high_ms) == (pytest.approx(trials[1].ms[0]), pytest.approx(trials[2].ms[0]))
    test = {t.id: t.files[""].test_accuracy for t in trained}
    assert found.accuracy == test[trials[0].architecture.id]
    assert all(c.search_accuracy is None for c in (*front.candidates, *front.rejected))


def test_what_was_measured_is_kept_and_the_anchors_beside_it(
    fronts: tuple[DeviceFront, ...], folder: RunFolder, tables: dict[str, LatencyTable], trained: list[Trained],
    device: MadeUpDevice,
) -> None:  # fmt: skip
    anchors = {row.architecture for row in tables["cpu"].networks[: build.ANCHORS]}
    assert [set(names) for names in device.asked] == [{a.id for a in NETWORKS} | anchors] * 3
    assert {path.name for path in (folder.path / "measured").iterdir()} == {f"{one.slug}.json" for one in DEVICES}
    targets = [TableTarget(SPACE, tables[one.name], None) for one in DEVICES]
    trials = rated(FACTORS, device)
    trials = [Finalist(t.architecture, t.origin, t.accuracy, tuple(ms / 1.25 for ms in t.ms)) for t in trials]
    again = device_fronts(folder, Quiet(), DEVICES, targets, trials, trained, IMAGES)
    assert len(device.asked) == 3
    for one, other in zip(fronts, again, strict=True):
        assert {c.id: c.measured_ms for c in one.candidates} == {c.id: c.measured_ms for c in other.candidates}
        assert one.certificates.keys() == other.certificates.keys()


def test_devices_as_words() -> None:
    assert names(DEVICES) == "cpu, cpu:threads=2, cpu:int8" and names([]) == ""
