"""NASWOT against its definition."""

import numpy as np
import pytest
import torch
from torch import nn

from predictors.zero_cost import naswot
from search_spaces.fbnet import FBNetSpace

SPACE = FBNetSpace((1, 8, 8), 10)


def network(text: str = ",".join(["k3_e3"] * 8)) -> nn.Module:
    torch.manual_seed(1)
    return SPACE.build(SPACE.parse(text))


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(12, 1, 8, 8, generator=torch.Generator().manual_seed(2))


def test_by_definition() -> None:
    net = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Flatten())
    x = torch.randn(4, 3)
    with torch.no_grad():
        first = net[0](x)
        second = net[2](first.relu())
    codes = torch.cat([first > 0, second > 0], 1).int().tolist()
    kernel = [[sum(a == b for a, b in zip(one, other, strict=True)) for other in codes] for one in codes]
    assert naswot(net, x) == pytest.approx(np.linalg.slogdet(np.array(kernel, float))[1])


@pytest.mark.parametrize("rectifier", [nn.Hardswish(), nn.LeakyReLU()])
def test_others_are_open_where_relu_is(rectifier: nn.Module) -> None:
    layer, x = nn.Linear(3, 9), torch.randn(4, 3)
    assert naswot(nn.Sequential(layer, rectifier), x) == naswot(nn.Sequential(layer, nn.ReLU()), x) > -np.inf


def test_duplicate_images_lower_it(images: torch.Tensor) -> None:
    near = images.clone()
    near[1] = near[0] + 0.01 * images[1]
    same = images.clone()
    same[1] = same[0]
    scores = [naswot(network(), x) for x in (images, near, same)]
    assert scores[0] > scores[1] > scores[2]


def test_same_seed_same_score(images: torch.Tensor) -> None:
    assert naswot(network(), images) == naswot(network(), images)


def test_order_of_the_images_does_not_matter(images: torch.Tensor) -> None:
    assert naswot(network(), images.flip(0)) == pytest.approx(naswot(network(), images), rel=1e-6)


def test_larger_networks_score_higher(images: torch.Tensor) -> None:
    scores = [naswot(network(",".join([option] * 8)), images) for option in ("skip", "k3_e1", "k3_e6")]
    assert scores == sorted(scores)


def test_leaves_no_hooks_behind(images: torch.Tensor) -> None:
    net = network()
    naswot(net, images)
    with pytest.raises(RuntimeError):
        naswot(net, torch.randn(2, 3, 8, 8))
    assert not any(module._forward_hooks for module in net.modules())


def test_network_without_relu_tells_nothing_apart() -> None:
    assert naswot(nn.Linear(3, 2), torch.randn(4, 3)) == -np.inf
