"""Networks of the space: all of them build, run, compute in ONNX Runtime, and are as large as was predicted."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import optuna
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from latency.emit import disagreement, to_onnx
from search_spaces.architecture import Architecture
from search_spaces.block import Shape
from search_spaces.einspace.operators import Positions
from search_spaces.einspace.space import EinSpace, limits_for
from search_spaces.errors import InputError
from search_spaces.space import pick, sample

SHAPES: list[tuple[Shape, int]] = [((3, 32, 32), 10), ((1, 27, 18), 6), ((12, 8, 8), 3), ((2, 1, 1), 2)]


def assert_as_predicted(space: EinSpace, architecture: Architecture) -> None:
    """Compare a network's shapes, MACs and weights with those of its blocks: closed forms against torch."""
    blocks = space.blocks(architecture)
    network = space.build(architecture).eval()
    shapes: list[tuple[int, ...]] = []
    for layer in network.layers:  # type: ignore[union-attr]
        layer.register_forward_hook(lambda _, inputs, output: shapes.append(tuple(output.shape[1:])))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        scores = network(torch.randn(2, *space.input_shape))
    assert scores.shape == (2, space.classes)
    assert shapes[:-1] == [block.out_shape for block in blocks[:-1]]
    pooled = math.prod(blocks[-1].in_shape)
    assert space.macs(architecture) == counter.get_total_flops() / 2 / 2 + pooled  # two FLOPs a MAC, two images
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    positions = sum(block.params for block in blocks if isinstance(block, Positions))
    assert space.params(architecture) == sum(layer.weight.numel() for layer in layers) + positions
    assert space.macs(architecture) <= space.limits.macs and space.params(architecture) <= space.limits.params
    assert max(math.prod(block.out_shape) for block in blocks) <= space.limits.elements


@pytest.mark.parametrize(("shape", "classes"), SHAPES, ids=str)
def test_every_network_is_valid(shape: Shape, classes: int) -> None:
    space, rng = EinSpace(shape, classes), np.random.default_rng(0)
    for _ in range(50):
        assert_as_predicted(space, sample(space, rng))


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_every_one_of_ten_thousand_networks_is_valid() -> None:
    space, rng = EinSpace((3, 32, 32), 10), np.random.default_rng(1)
    for _ in range(10_000):
        architecture = sample(space, rng)
        assert_as_predicted(space, architecture)
        assert space.parse(architecture.text) == architecture


def trained(network: nn.Module) -> nn.Module:
    """Give batch norms statistics as after training: fresh ones hide mistakes."""
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert isinstance(layer.running_mean, Tensor) and isinstance(layer.running_var, Tensor)
            nn.init.normal_(layer.running_mean)
            nn.init.uniform_(layer.running_var, 0.2, 3)
            nn.init.normal_(layer.weight)
            nn.init.normal_(layer.bias)
    return network


def assert_exported(space: EinSpace, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    for _ in range(count):
        architecture = sample(space, rng)
        network = trained(space.build(architecture))
        difference = disagreement(to_onnx(network, space.input_shape), network, space.input_shape)
        assert difference < 1e-4, architecture.text


@pytest.mark.parametrize(("shape", "classes"), SHAPES[:2], ids=str)
def test_networks_agree_with_onnx_runtime(shape: Shape, classes: int) -> None:
    assert_exported(EinSpace(shape, classes), 20, seed=2)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_five_hundred_networks_agree_with_onnx_runtime() -> None:
    assert_exported(EinSpace((3, 32, 32), 10), 500, seed=3)


def test_no_other_network_is_made_of_one_whose_branches_fit_in_one_order_alone() -> None:
    # With the longer summand first, nothing is known to follow the product of a single column.
    text = "seq,route,im2col_k1s1,op,identity,permute21,branch,clone2,add,op,linear64,branch,group2_d2,scaled_dot"
    space = EinSpace((1, 8, 8), 3)
    architecture = space.parse(f"einspace:{text},op,softmax,op,identity")
    specs = [block.spec for block in space.blocks(architecture)]
    assert specs.count("linear_o64") == 2 and "scaled_dot_1x32x1" in specs
    assert space.macs(architecture) == 64 * 64 + 1 * 32 * 1 + 1 * 64 + 64 * 3 + 64


def test_mutants_are_valid_networks() -> None:
    space, rng = EinSpace((3, 16, 16), 10), np.random.default_rng(4)
    parent = sample(space, rng)
    for _ in range(15):
        parent = space.mutate(parent, rng)
        assert space.parse(parent.text) == parent
        assert_as_predicted(space, parent)


def suggested(space: EinSpace, trial: optuna.Trial) -> Architecture:
    return space.decide(lambda name, options: str(trial.suggest_categorical(name, options)))


def test_a_study_takes_the_decisions_and_resumes(tmp_path: Path) -> None:
    """Each parameter has the same options in every trial, as Optuna demands of categorical parameters."""
    limits = dataclasses.replace(limits_for((3, 16, 16), 10), functions=12)
    space = EinSpace((3, 16, 16), 10, limits=limits)
    optuna.logging.set_verbosity(optuna.logging.ERROR)

    def run(trials: int) -> optuna.Study:
        storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(tmp_path / "journal")))
        sampler = optuna.samplers.RandomSampler(seed=len(list(tmp_path.iterdir())))
        study = optuna.create_study(storage=storage, study_name="s", load_if_exists=True, sampler=sampler)

        def objective(trial: optuna.Trial) -> float:
            architecture = suggested(space, trial)
            trial.set_user_attr("architecture", architecture.text)
            return float(space.macs(architecture))

        study.optimize(objective, n_trials=trials)
        return study

    run(8)
    study = run(8)
    assert len(study.trials) == 16
    for trial in study.trials:
        again = suggested(space, optuna.trial.FixedTrial(trial.params))  # type: ignore[arg-type]
        assert again.text == trial.user_attrs["architecture"]
    # A proposed architecture is taken as it is.
    proposal = sample(space, np.random.default_rng(5))
    study.enqueue_trial(dict(proposal.decisions))
    assert suggested(space, study.ask()) == proposal


def test_sampling_is_reproducible() -> None:
    one, other = EinSpace((3, 16, 16), 10), EinSpace((3, 16, 16), 10)
    texts = [[sample(space, rng).text for _ in range(20)] for space, rng in ((one, rng_of(6)), (other, rng_of(6)))]
    assert texts[0] == texts[1] != [sample(one, rng_of(7)).text for _ in range(20)]


def rng_of(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_options_are_drawn_by_the_grammar() -> None:
    """Functions are equally probable, and so are rules where there is no computation among them."""
    space, rng = EinSpace((3, 16, 16), 10), np.random.default_rng(8)
    drawn: dict[tuple[str, ...], list[str]] = {}

    def choose(_: str, options: Sequence[str]) -> str:
        option = pick(space, options, rng)
        drawn.setdefault(tuple(options), []).append(option)
        return option

    for _ in range(150):
        space.decide(choose)
    checked = 0
    for options, taken in drawn.items():
        if len(taken) < 20 * len(options) or space.chances(options) is not None:
            continue
        expected = len(taken) / len(options)
        chi_squared = sum((taken.count(option) - expected) ** 2 / expected for option in options)
        assert chi_squared < len(options) + 5 * math.sqrt(2 * len(options))
        checked += 1
    assert checked >= 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("resnet17", "did you mean 'resnet18'"),
        ("ViT", "unknown architecture of einspace: 'ViT'; did you mean 'vit'"),
        ("conv", "known: mlp_mixer, resnet18, vit, wrn16_4"),
        ("op,norm", "option 1, a module: 'op' does not fit there; what does: seq, branch, route"),
        ("seq,op,norm", "ends early: a module is missing behind it"),
        ("seq,op,norm,op,norm,op", "has 6 options, 5 make a network"),
        ("seq,op,linear17,op,norm", "did you mean 'linear1"),
        ("seq,op,permute21,op,norm", "option 3, a computation: 'permute21' does not fit there"),
    ],
)
def test_wrong_texts_are_input_errors(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        EinSpace((3, 32, 32), 10).parse(text)


def test_the_graph_connects_every_block() -> None:
    space = EinSpace((3, 16, 16), 10)
    architecture = space.parse("vit")
    labels, edges = space.graph(architecture)
    assert labels == ["image", *(block.spec for block in space.blocks(architecture))]
    assert {target for _, target in edges} == set(range(1, len(labels)))
    assert {source for source, _ in edges} == set(range(len(labels) - 1))
    assert all(source < target for source, target in edges)
    assert sum(label.startswith("dot") for label in labels) == 16
