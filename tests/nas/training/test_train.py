"""Training resumes to the same weights, follows its schedule, and measures accuracy and statistics rightly."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from nas.training.data import Dataset, Split, load_dataset, to_tensor
from nas.training.train import Recipe, TrainingDiverged, accuracy, fit, recalibrate, train
from search_spaces.errors import InputError
from search_spaces.fbnet import FBNetSpace

RECIPE = Recipe(4, batch_size=32)


@pytest.fixture(scope="module")
def data() -> Dataset:
    """160 digits to train on: five batches."""
    whole = load_dataset("digits", None, 0)
    train = Split(whole.train.images[:160], whole.train.labels[:160])
    return Dataset(whole.source, whole.classes, train, whole.val, whole.test, whole.mean, whole.std, whole.digest)


def network(arch: str = "k3_e1,k3_e1,skip,k3_e1_g2,skip,k5_e1,skip,k3_e1") -> nn.Module:
    space = FBNetSpace((1, 8, 8), 10)
    torch.manual_seed(7)
    return space.build(space.parse(arch))


def weights(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def stop_after(epochs: int) -> object:
    def progress(done: int, total: int) -> None:
        if done == epochs:
            raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize("epochs", [1, 2, 4])
def test_stopped_and_resumed_training_ends_with_the_same_weights(epochs: int, data: Dataset, tmp_path: Path) -> None:
    undisturbed = weights(train(network(), data, RECIPE, 3))
    checkpoint = tmp_path / "net.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train(network(), data, RECIPE, 3, checkpoint, stop_after(epochs))  # type: ignore[arg-type]
    torch.rand(5)  # a new process starts from another random state
    told: list[tuple[int, int]] = []
    resumed = train(network(), data, RECIPE, 3, checkpoint, lambda *done: told.append(done))
    assert same(weights(resumed), undisturbed)
    assert told == [(n, 4) for n in range(epochs, 5)]


def test_epoch_that_was_cut_off_is_repeated(data: Dataset, tmp_path: Path) -> None:
    undisturbed = weights(train(network(), data, RECIPE, 3))
    module, calls = network(), 0

    def loss(images: torch.Tensor, labels: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 8:  # in the middle of the second epoch
            raise KeyboardInterrupt
        return nn.functional.cross_entropy(module(images), labels)

    module.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    with pytest.raises(KeyboardInterrupt):
        fit(dict(module.named_parameters()), loss, data, RECIPE, 3, tmp_path / "c")
    assert same(weights(train(network(), data, RECIPE, 3, tmp_path / "c")), undisturbed)


def test_seed_decides(data: Dataset) -> None:
    first, again, other = (weights(train(network(), data, Recipe(1), seed)) for seed in (0, 0, 1))
    assert same(first, again) and not same(first, other)


def test_rate_is_a_ramp_times_half_a_cosine() -> None:
    recipe = Recipe(10, learning_rate=0.4, warmup=20)
    assert recipe.rate(0, 1000) == pytest.approx(0.4 / 20)
    assert recipe.rate(9, 10**9) == pytest.approx(0.4 * 10 / 20)
    assert recipe.rate(500, 1000) == pytest.approx(0.2)
    assert recipe.rate(250, 1000) == pytest.approx(0.4 * (1 + math.sqrt(0.5)) / 2)
    assert recipe.rate(1000, 1000) == pytest.approx(0)
    rates = [recipe.rate(step, 1000) for step in range(1000)]
    assert max(rates) <= 0.4 and rates[20:] == sorted(rates[20:], reverse=True) and rates[-1] > 0


def test_steps_follow_the_rate_and_the_clipping(data: Dataset) -> None:
    # One weight w with loss 100 w: the gradient is clipped to 1, so that w falls by the rate times (1 + momenta).
    weight = nn.Parameter(torch.zeros(1))
    recipe = Recipe(1, batch_size=160, learning_rate=0.5, warmup=2, weight_decay=0.0, clip=1.0)
    fit({"w": weight}, lambda images, labels, rng: 100 * weight.sum(), data, recipe, 0)
    # Nesterov's first step is the gradient plus 0.9 times the first momentum, which is the gradient.
    assert weight.item() == pytest.approx(-0.25 * 1.9, rel=1e-5)


def test_recalibrated_statistics_are_the_true_averages(data: Dataset) -> None:
    few = Split(data.train.images[:100], data.train.labels[:100])  # one batch
    small = Dataset(data.source, data.classes, few, data.val, data.test, data.mean, data.std, data.digest)
    module = network()
    norm = module.layers[0].norm  # type: ignore[index, union-attr]
    norm.running_mean.fill_(17.0)
    recalibrate(module, small)
    assert not module.training
    with torch.no_grad():
        features = module.layers[0].conv(to_tensor(few.images, data.mean, data.std))  # type: ignore[index, union-attr]
    torch.testing.assert_close(norm.running_mean, features.mean((0, 2, 3)))
    torch.testing.assert_close(norm.running_var, features.transpose(0, 1).flatten(1).var(1))


def test_recalibration_averages_over_batches_and_forgets_what_was(data: Dataset) -> None:
    one, other = network(), network()
    recalibrate(other, data)
    with torch.no_grad():
        other(to_tensor(data.val.images[:50], data.mean, data.std))
    assert same(weights(recalibrate(one, data)), weights(recalibrate(other, data)))


class Constant(nn.Module):
    def __init__(self, label: int) -> None:
        super().__init__()
        self.label = label

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return nn.functional.one_hot(torch.full((len(images),), self.label), 10).float()


@pytest.mark.parametrize("label", [0, 3, 9])
def test_accuracy_of_a_constant_is_the_share_of_its_class(label: int, data: Dataset) -> None:
    assert accuracy(Constant(label), data.val, data) == np.mean(data.val.labels == label)
    one = Split(data.val.images[:1], data.val.labels[:1])
    assert accuracy(Constant(int(one.labels[0])), one, data) == 1.0


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_divergence_is_told(value: float, data: Dataset, tmp_path: Path) -> None:
    weight = nn.Parameter(torch.ones(1))
    with pytest.raises(TrainingDiverged, match="no longer finite"):
        fit({"w": weight}, lambda *_: weight.sum() * value, data, RECIPE, 0, tmp_path / "c")
    assert weight.item() == 1 and not (tmp_path / "c").exists()


def test_checkpoint_of_another_job_is_refused(data: Dataset, tmp_path: Path) -> None:
    checkpoint = tmp_path / "c.safetensors"
    train(network(), data, Recipe(1), 0, checkpoint)
    changed = Dataset(data.source, data.classes, data.train, data.val, data.test, data.mean, data.std, "0" * 64)
    for job in (
        (network(), data, Recipe(2), 0),
        (network(), data, Recipe(1, batch_size=16), 0),
        (network(), data, Recipe(1), 1),
        (network(), changed, Recipe(1), 0),
        (network("k3_e1,k3_e1,skip,skip,skip,k5_e1,skip,k3_e1"), data, Recipe(1), 0),
        (network("k3_e1,k3_e1,skip,k3_e1,skip,k3_e1,skip,k3_e1"), data, Recipe(1), 0),
    ):
        with pytest.raises(InputError, match=r"c\.safetensors was made with another .*delete it to start anew"):
            train(*job, checkpoint)


def test_damaged_checkpoint_is_an_input_error(data: Dataset, tmp_path: Path) -> None:
    checkpoint = tmp_path / "c.safetensors"
    train(network(), data, Recipe(1), 0, checkpoint)
    whole = checkpoint.read_bytes()
    with safe_open(checkpoint, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    for content in (b"", b"no checkpoint", whole[:100], whole[:-10]):
        checkpoint.write_bytes(content)
        with pytest.raises(InputError, match=r"c\.safetensors is damaged; delete it to start anew"):
            train(network(), data, Recipe(1), 0, checkpoint)
    for missing in ("layers.0.conv.weight", "momentum.layers.0.conv.weight"):
        save_file({name: tensor for name, tensor in tensors.items() if name != missing}, checkpoint, metadata)
        with pytest.raises(InputError, match="damaged"):
            train(network(), data, Recipe(1), 0, checkpoint)
    for others in ({"other": "x"}, {**metadata, "epoch": "many"}):
        save_file(tensors, checkpoint, others)
        with pytest.raises(InputError, match="damaged"):
            train(network(), data, Recipe(1), 0, checkpoint)


def test_checkpoint_that_cannot_be_written_leaves_the_last_one(data: Dataset, tmp_path: Path) -> None:
    checkpoint = tmp_path / "c.safetensors"
    train(network(), data, Recipe(1), 0, checkpoint)
    assert [path.name for path in tmp_path.iterdir()] == ["c.safetensors"]
