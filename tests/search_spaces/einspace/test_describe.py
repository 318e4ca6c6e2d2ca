"""Networks by numbers and as drawings."""

import numpy as np

from search_spaces.einspace.canonical import followed, steps
from search_spaces.einspace.derivation import Branch, Op, Seq
from search_spaces.einspace.describe import drawing, walk
from search_spaces.einspace.place import Whole
from search_spaces.einspace.seeds import convolution
from search_spaces.einspace.signal import Signal
from search_spaces.einspace.space import EinSpace
from search_spaces.space import sample

IMAGE = Signal((4, 6, 8))
NETWORK = Seq(
    Branch("clone2", "add", (Seq(convolution(3, 2, 16), Op("norm")), Op("identity"))),
    Branch("group4_d1", "concat4_d1", (Op("linear32"),)),
)


def test_drawing_by_hand() -> None:
    whole, _ = followed(steps(NETWORK), IMAGE, Whole(10))
    assert drawing(whole, IMAGE) == [
        "image  4x6x8",
        "├─ clone2, add  16x3x4",
        "│  ├─ from 4x6x8",
        "│  │  ├─ conv 3x3, stride 2  16x3x4",
        "│  │  └─ norm  16x3x4",
        "│  └─ from 4x6x8",
        "│     └─ conv 1x1, stride 2  16x3x4",  # implied
        "└─ group4_d1, concat4_d1  16x3x32",
        "   └─ 4 times from 4x3x4",
        "      └─ linear32  4x3x32",
    ]


def test_identities_and_columns_are_drawn() -> None:
    lines = EinSpace((3, 16, 16), 10).drawing(EinSpace((3, 16, 16), 10).parse("vit"))
    assert lines[1:4] == ["├─ im2col_k4s4  16x48", "├─ linear512  16x512", "├─ positions  16x512"]
    assert "│     └─ identity" in lines
    assert len(lines) == 4 + 4 * 27


def test_a_walk_meets_every_function_with_its_copies() -> None:
    whole, _ = followed(steps(NETWORK), IMAGE, Whole(10))
    walked = [(name, copies) for name, copies, _ in walk(whole, IMAGE)]
    assert walked == [
        ("clone2", 1), ("im2col_k3s2", 1), ("linear16", 1), ("col2im", 1), ("norm", 1),
        ("im2col_k1s2", 1), ("linear16", 1), ("col2im", 1), ("add", 1),
        ("group4_d1", 1), ("linear32", 4), ("concat4_d1", 1), ("identity", 1),
    ]  # fmt: skip


def test_numbers_tell_networks_apart() -> None:
    space, rng = EinSpace((3, 16, 16), 10), np.random.default_rng(0)
    networks = {sample(space, rng) for _ in range(200)}
    rows = np.array([space.descriptors(network) for network in networks])
    assert np.isfinite(rows).all() and len({tuple(row) for row in rows}) == len(networks)
