"""Training resumes to the same weights, follows its schedule, and measures accuracy and statistics rightly."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from nas.training import train as training
from nas.training.checkpoint import losses
from nas.training.data import Dataset, Split, batches, load_dataset, to_tensor
from nas.training.hardware import ahead
from nas.training.train import Recipe, TrainingDiverged, accuracy, fit, recalibrate, train
from search_spaces.errors import InputError
from search_spaces.fbnet import FBNetSpace
from search_spaces.frame import PooledNormHead

RECIPE = Recipe(4, batch_size=32)
EVERYTHING = replace(RECIPE, label_smoothing=0.1, mixup=0.4, cutmix=1.0, ema=0.9, distil=0.3)


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


def teacher(data: Dataset, seed: int = 1) -> nn.Module:
    torch.manual_seed(seed)
    space = FBNetSpace((1, 8, 8), 10)
    return recalibrate(space.build(space.parse("k3_e6," * 7 + "k3_e6")), data)


@pytest.mark.parametrize("epochs", [1, 2, 4])
@pytest.mark.parametrize("recipe", [RECIPE, EVERYTHING], ids=["plain", "everything"])
def test_stopped_and_resumed_training_ends_with_the_same_weights(
    recipe: Recipe, epochs: int, data: Dataset, tmp_path: Path
) -> None:
    taught = teacher(data) if recipe.distil else None
    checkpoints = [tmp_path / "whole.safetensors", tmp_path / "net.safetensors"]
    undisturbed = weights(train(network(), data, recipe, 3, checkpoints[0], teacher=taught))
    with pytest.raises(KeyboardInterrupt):
        train(network(), data, recipe, 3, checkpoints[1], stop_after(epochs), teacher=taught)  # type: ignore[arg-type]
    torch.rand(5)  # a new process starts from another random state
    told: list[tuple[int, int]] = []
    resumed = train(network(), data, recipe, 3, checkpoints[1], lambda *done: told.append(done), teacher=taught)
    assert same(weights(resumed), undisturbed)
    assert told == [(n, 4) for n in range(epochs, 5)]
    curves = [losses(checkpoint) for checkpoint in checkpoints]
    assert curves[0] == curves[1] and len(curves[0]) == 4 and all(map(math.isfinite, curves[0]))


def by_hand(data: Dataset, recipe: Recipe, seed: int) -> tuple[dict[str, torch.Tensor], list[float]]:
    """Return the weights, or their averages, and each epoch's mean loss; the plain loop, written anew."""
    module, step, curve = network(), 0, []
    module.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    averages = [p.detach().clone() for p in module.parameters()]
    optimiser = torch.optim.SGD(module.parameters(), 1.0, momentum=0.9, nesterov=True, weight_decay=recipe.weight_decay)
    for epoch in range(recipe.epochs):
        rng, found = np.random.default_rng([seed, epoch]), []
        for images, labels in batches(data.train, data.mean, data.std, recipe.batch_size, rng, augment=True):
            optimiser.param_groups[0]["lr"] = recipe.rate(step, recipe.epochs * 5)
            loss = nn.functional.cross_entropy(module(images), labels)
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(module.parameters(), recipe.clip)
            optimiser.step()
            found.append(loss.item())
            decay = min(recipe.ema, (1 + step) / (10 + step))
            for average, parameter in zip(averages, module.parameters(), strict=True):
                average.mul_(decay).add_(parameter.detach(), alpha=1 - decay)
            step += 1
        curve.append(float(np.mean(found)))
    final = averages if recipe.ema else list(module.parameters())
    return {name: p.detach() for (name, _), p in zip(module.named_parameters(), final, strict=True)}, curve


def test_plain_recipe_is_the_plain_loop(data: Dataset, tmp_path: Path) -> None:
    expected, curve = by_hand(data, RECIPE, 3)
    found = train(network(), data, RECIPE, 3, tmp_path / "c").state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert losses(tmp_path / "c") == pytest.approx(curve, rel=1e-6)


def test_averaged_weights_are_what_is_delivered(data: Dataset, tmp_path: Path) -> None:
    recipe = replace(RECIPE, ema=0.9)
    expected, _ = by_hand(data, recipe, 3)
    trained = train(network(), data, recipe, 3, tmp_path / "c")
    for name, value in expected.items():
        torch.testing.assert_close(trained.state_dict()[name], value)
    # Batch norm is calibrated to the averaged weights.
    assert same(weights(recalibrate(trained, data)), weights(train(network(), data, recipe, 3, tmp_path / "c")))
    plain = train(network(), data, RECIPE, 3).state_dict()
    assert not all(torch.equal(plain[name], value) for name, value in trained.state_dict().items())


def test_average_forgets_the_start() -> None:
    recipe = Recipe(1, ema=0.999)
    assert recipe.decay(0) == pytest.approx(0.1)
    assert [recipe.decay(step) for step in (10**4, 10**6)] == [0.999, 0.999]
    for steps in (10, 100, 1000):
        start = math.prod(recipe.decay(step) for step in range(steps))
        assert start < 1e-4, "share of the first weights in the average"


@pytest.mark.parametrize(
    "addition", [{"label_smoothing": 0.1}, {"mixup": 0.4}, {"cutmix": 1.0}, {"ema": 0.9}, {"distil": 0.3}], ids=str
)
def test_each_addition_is_another_job_with_other_weights(
    addition: dict[str, float], data: Dataset, tmp_path: Path
) -> None:
    plain, other = Recipe(1), replace(Recipe(1), **addition)  # type: ignore[arg-type]
    taught = teacher(data) if other.distil else None
    before = weights(train(network(), data, plain, 0, tmp_path / "c"))
    with pytest.raises(InputError, match="another recipe"):
        train(network(), data, other, 0, tmp_path / "c", teacher=taught)
    assert not same(weights(train(network(), data, other, 0, teacher=taught)), before)


def test_another_teacher_is_another_job(data: Dataset, tmp_path: Path) -> None:
    recipe = Recipe(1, distil=0.3)
    train(network(), data, recipe, 0, tmp_path / "c", teacher=teacher(data))
    train(network(), data, recipe, 0, tmp_path / "c", teacher=teacher(data))
    with pytest.raises(InputError, match="was made with another"):
        train(network(), data, recipe, 0, tmp_path / "c", teacher=teacher(data, seed=2))


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


def test_images_made_in_a_thread_leave_training_reproducible(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    # The path of a GPU, without one: batches come from a thread while the loss draws too.
    monkeypatch.setattr(training, "device", lambda: torch.device("cuda"))
    monkeypatch.setattr(training, "placed", lambda loader, place: ahead(loader))
    found: list[float] = []
    for _ in range(3):
        weight = nn.Parameter(torch.zeros(()))
        drawn = lambda images, labels, rng, w=weight: (w - images.mean() - rng.random()) ** 2  # noqa: E731
        fit({"w": weight}, drawn, data, RECIPE, 0)
        found.append(weight.item())
    assert found[0] == found[1] == found[2] != 0


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


def test_norms_of_pooled_features_are_recalibrated_too(data: Dataset) -> None:
    few = Split(data.train.images[:100], data.train.labels[:100])
    small = Dataset(data.source, data.classes, few, data.val, data.test, data.mean, data.std, data.digest)
    head = recalibrate(PooledNormHead((1, 8, 8), 10).build(), small)
    pooled = to_tensor(few.images, data.mean, data.std).mean((2, 3))
    torch.testing.assert_close(head.norm.running_mean, pooled.mean(0))  # type: ignore[union-attr]
    torch.testing.assert_close(head.norm.running_var, pooled.var(0))  # type: ignore[union-attr]


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
        with pytest.raises(InputError, match=r"c\.safetensors is damaged"):
            losses(checkpoint)
    for missing in ("layers.0.conv.weight", "momentum.layers.0.conv.weight"):
        save_file({name: tensor for name, tensor in tensors.items() if name != missing}, checkpoint, metadata)
        with pytest.raises(InputError, match="damaged"):
            train(network(), data, Recipe(1), 0, checkpoint)
    for others in ({"other": "x"}, {**metadata, "epoch": "many"}):
        save_file(tensors, checkpoint, others)
        with pytest.raises(InputError, match="damaged"):
            train(network(), data, Recipe(1), 0, checkpoint)


def test_checkpoint_of_another_version_is_refused(data: Dataset, tmp_path: Path) -> None:
    save_file({"w": torch.zeros(1)}, tmp_path / "c", {"schema_version": "1", "epoch": "1", "job": "x"})
    with pytest.raises(InputError, match="has schema version 1; this version reads 2; delete it to start anew"):
        train(network(), data, Recipe(1), 0, tmp_path / "c")
    assert losses(tmp_path / "c") == []


def test_curve_of_a_stopped_training_has_gaps_to_come(data: Dataset, tmp_path: Path) -> None:
    train(network(), data, RECIPE, 0, tmp_path / "c", until=2)
    assert [math.isfinite(loss) for loss in losses(tmp_path / "c")] == [True, True, False, False]


def test_checkpoint_that_cannot_be_written_leaves_the_last_one(data: Dataset, tmp_path: Path) -> None:
    checkpoint = tmp_path / "c.safetensors"
    train(network(), data, Recipe(1), 0, checkpoint)
    assert [path.name for path in tmp_path.iterdir()] == ["c.safetensors"]
