"""Differentiable search: mixing, both gradient estimators, the budget, and what survives a death."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fakes import made_up_table
from tiny_space import TinySpace, rough_table
from torch import Tensor, nn
from toy_space import ToySpace

from nas.search import dnas
from nas.search.distribution import decisions_of, draw, uniform
from nas.search.dnas import Estimator, Search, learn, learn_at_budget, require_layers
from nas.search.expected import expected_latency
from nas.search.target import TableTarget
from nas.training.data import Dataset, Split, load_dataset, parted, to_tensor
from nas.training.oracle import Task
from nas.training.train import Recipe
from search_spaces.architecture import Architecture
from search_spaces.chain import Candidate
from search_spaces.errors import InputError
from search_spaces.fbnet import OPTIONS, FBNetSpace
from search_spaces.nb201 import NB201Space
from search_spaces.operators import ConvNormReLU
from search_spaces.space import SearchSpace

SPACE = FBNetSpace((1, 8, 8), 10)
TARGET = TableTarget(SPACE, made_up_table(SPACE), 0.2)
LATENCY = expected_latency(SPACE, TARGET.table, 0)
ESTIMATORS: tuple[Estimator, ...] = ("mixed", "sampled")


@pytest.fixture(scope="module")
def data() -> Dataset:
    return load_dataset("digits", None, 0)


def tensors(data: Dataset, count: int = 32) -> tuple[Tensor, Tensor]:
    images = to_tensor(np.asarray(data.train.images[:count]), data.mean, data.std)
    return images, torch.from_numpy(np.asarray(data.train.labels[:count]))


def test_the_parts_of_the_training_images(data: Dataset) -> None:
    rest, held = parted(data)
    assert len(held) == -(-len(data.train) // 5) and len(held) + len(rest.train) == len(data.train)
    assert rest.digest != data.digest and rest.val is data.val and rest.mean == data.mean
    everything = np.concatenate([rest.train.images, held.images]).reshape(len(data.train), -1)
    assert sorted(map(bytes, everything)) == sorted(
        map(bytes, np.asarray(data.train.images).reshape(len(data.train), -1))
    )


def test_spaces_that_cannot_be_mixed_are_refused() -> None:
    assert [position.operator for position in require_layers(SPACE)[1:-2]] == list(decisions_of(SPACE))
    for space in (NB201Space((1, 8, 8), 10), ToySpace((1, 8, 8), 10)):
        with pytest.raises(InputError, match=f"which {space.name} does not consist of; --sampler fpnas takes any"):
            require_layers(space)


def test_candidates_of_different_sizes_are_refused() -> None:
    class Torn(FBNetSpace):
        def candidates(self) -> list[list[Candidate]]:
            rows = super().candidates()
            rows[2][0] = ({"layer02": "k3_e1"}, lambda shape: ConvNormReLU(shape, 40, kernel=1, stride=1))
            return rows

    with pytest.raises(InputError, match="the candidates of layer 2 of fbnet/small-8 differ in size: 24x4x4, 40x8x8"):
        require_layers(Torn((1, 8, 8), 10))


# --- gradients


class Taste:
    """In the place of a supernet: scores are the better, the more layers are ``favourite``."""

    def __init__(self, favourite: str) -> None:
        self._favourite = favourite
        self.parameters: dict[str, nn.Parameter] = {"w": nn.Parameter(torch.zeros(1))}

    def _scores(self, liking: Tensor, images: Tensor) -> Tensor:
        right = nn.functional.one_hot(images[:, 0, 0, 0].long(), 10).float()
        return right * liking + 0 * self.parameters["w"]

    def forward(self, path: Architecture, images: Tensor) -> Tensor:
        return self._scores(torch.tensor(float(sum(o == self._favourite for _, o in path.decisions))), images)

    def mixture(self) -> Callable[[Mapping[str, Tensor], Tensor], Tensor]:
        liked = [OPTIONS.index(self._favourite)]
        return lambda weights, images: self._scores(
            torch.stack([weight[liked] for weight in weights.values()]).sum(), images
        )


def searching(estimator: Estimator, budget_ms: float, favourite: str = "k3_e3") -> Search:
    return Search(SPACE, Taste(favourite), LATENCY, budget_ms, estimator)  # type: ignore[arg-type]


def mean_chance(search: Search, option: str) -> float:
    return float(np.mean([chances[option] for chances in search.probabilities().values()]))


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("budget_ms", [0.15, 0.25])
def test_gradients_find_what_explains_the_images_and_the_budget_holds(estimator: Estimator, budget_ms: float) -> None:
    search, rng = searching(estimator, budget_ms), np.random.default_rng(0)
    labels = torch.arange(10)
    images = labels.float().view(10, 1, 1, 1).expand(10, 1, 8, 8)
    before = {option: mean_chance(search, option) for option in ("k3_e3", "k5_e1")}
    for i in range(150):
        search.step(images, labels, rng, i / 150)
        if i % 25 == 0:
            reached = float(LATENCY({n: F.softmax(v.detach(), dim=0) for n, v in search.at_budget().items()}))
            assert reached == pytest.approx(budget_ms, rel=1e-3)
    assert mean_chance(search, "k3_e3") > 1.5 * before["k3_e3"]
    assert mean_chance(search, "k5_e1") < before["k5_e1"]


def test_more_architectures_are_sampled_where_less_is_decided(monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []
    monkeypatch.setattr(dnas, "draw", lambda *args: counts.append(1) or draw(*args))
    search, rng = searching("sampled", 0.2), np.random.default_rng(0)
    labels = torch.arange(4)
    images = labels.float().view(4, 1, 1, 1)
    entropy = -sum(p * np.log(p) for row in search.probabilities().values() for p in row.values())
    search.step(images, labels, rng, 0)
    assert len(counts) == round(entropy / 4)
    with torch.no_grad():
        for logits in search.logits.values():
            logits[0] = 100
    counts.clear()
    search.step(images, labels, rng, 0)
    assert len(counts) == 2


# --- a whole search


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    folder = tmp_path_factory.mktemp("task")
    task = Task(SPACE, "digits", None, folder / "data", 0, folder / "supernet.safetensors", Recipe(2), parted=True)
    task.train_supernet()
    return task


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_search_that_was_stopped_ends_as_one_that_ran_through(
    estimator: Estimator, task: Task, tmp_path: Path
) -> None:
    def run(checkpoint: str, stop_after: int | None = None) -> dict[str, dict[str, float]]:
        def progress(done: int, total: int) -> None:
            if done == stop_after:
                raise KeyboardInterrupt

        search = Search(SPACE, task.train_supernet(), LATENCY, 0.2, estimator)
        found = learn(search, task.dataset, Recipe(2), 0, tmp_path / checkpoint, progress)
        return {name: dict(chances) for name, chances in found.items()}

    whole = run("whole")
    with pytest.raises(KeyboardInterrupt):
        run("cut", 1)
    assert run("cut") == whole
    assert max(abs(p - 1 / 9) for row in whole.values() for p in row.values()) > 0.01


def test_the_tightest_device_decides(task: Task, tmp_path: Path) -> None:
    slow = made_up_table(SPACE, "slow")
    slow = slow.model_copy(update={"calibration": slow.calibration.model_copy(update={"slope": 2.0})})
    targets = [TARGET, TableTarget(SPACE, slow, 0.3)]
    recipe = replace(task.supernet_recipe, epochs=1)
    found = learn_at_budget(
        replace(task, supernet_recipe=recipe, supernet=tmp_path / "net"), targets, "sampled", tmp_path / "c",
        lambda *_: None,
    )  # fmt: skip
    chances = {name: torch.tensor(list(row.values()), dtype=torch.float64) for name, row in found.items()}
    expected = float(expected_latency(SPACE, slow, 0)(chances))
    assert expected == pytest.approx(0.98 * 0.3, rel=0.003)


def test_widths_and_resolutions_are_learned_in_one_pass_per_resolution(tmp_path: Path) -> None:
    space = TinySpace()
    task = Task(space, "digits", 12, tmp_path / "data", 0, tmp_path / "net", Recipe(1), parted=True)
    supernet, table = task.train_supernet(), rough_table(space)
    latency = expected_latency(space, table, 0)
    search, rng, runs = Search(space, supernet, latency, 0.2, "mixed"), np.random.default_rng(0), []
    mixture = search._mixture

    def counted(weights: Mapping[str, Tensor], images: Tensor) -> Tensor:
        runs.append((weights["resolution"].tolist(), len(images)))
        return mixture(weights, images)

    search._mixture = counted  # type: ignore[assignment]
    before = {name: logits.detach().clone() for name, logits in search.logits.items()}
    images, labels = tensors(task.dataset)
    started = search.step(images, labels, rng, 0.0)
    assert runs == [([1.0, 0.0], 16), ([0.0, 1.0], 16)]
    assert all(not torch.equal(logits, before[name]) for name, logits in search.logits.items())
    chances = {name: torch.tensor(list(row.values()), dtype=torch.float64) for name, row in started.items()}
    assert float(latency(chances)) == pytest.approx(0.2, rel=1e-3)


def test_the_distribution_learns_from_images_that_the_weights_do_not_see(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marked = replace(data, train=Split(np.zeros_like(data.train.images), data.train.labels), mean=(0.0,), std=(1.0,))
    marked.train.images[::5] = 255
    seen: dict[str, set[float]] = {"weights": set(), "architecture": set()}

    class Watching(Taste):
        def forward(self, path: Architecture, images: Tensor) -> Tensor:
            seen["weights" if torch.is_grad_enabled() else "architecture"] |= set(images[:, 0, 4, 4].tolist())
            return super().forward(path, images * 0)

    search = Search(SPACE, Watching("k3_e3"), LATENCY, 0.2, "sampled")  # type: ignore[arg-type]
    learn(search, marked, Recipe(1), 0, tmp_path / "c", lambda *_: None)
    assert seen == {"weights": {0.0}, "architecture": {1.0}}


def test_spaces_whose_decisions_depend_on_each_other_can_be_sampled(tmp_path: Path) -> None:
    space: SearchSpace = ToySpace((1, 8, 8), 10)
    target = TableTarget(space, made_up_table(space), 0.05)
    task = Task(space, "digits", None, tmp_path / "data", 0, tmp_path / "net", Recipe(1), parted=True)
    found = learn_at_budget(task, [target], "sampled", tmp_path / "c", lambda *_: None)
    assert {name: set(row) for name, row in found.items()} == {
        name: set(row) for name, row in uniform({n: list(r) for n, r in found.items()}).items()
    }
    assert len(OPTIONS) == 9 and all(sum(row.values()) == pytest.approx(1) for row in found.values())
