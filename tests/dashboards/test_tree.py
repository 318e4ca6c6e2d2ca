"""The picture of a derivation tree: every function once, what runs first on top, copies told."""

import re
import xml.etree.ElementTree as ET
from itertools import pairwise

from dashboards.tree import tree_svg
from search_spaces.einspace.derivation import Branch, Module, Op, Route, Seq
from search_spaces.einspace.seeds import convolution, vit

TREE = Seq(
    Seq(convolution(3, 2, 64), Op("norm")),
    Seq(Branch("clone4", "add", (Route("permute231", Seq(Op("relu"), Op("softmax")), "identity"),)), Op("positions")),
)
SVG = "{http://www.w3.org/2000/svg}"


def texts(tree: Module) -> dict[str, tuple[float, float]]:
    """Return where each text of a picture is (x, y)."""
    root = ET.fromstring(tree_svg(tree, "a <title>"))
    return {str(text.text): (float(text.get("x", 0)), float(text.get("y", 0))) for text in root.iter(f"{SVG}text")}


def test_modules_stand_where_they_run() -> None:
    found = texts(TREE)
    below = ["im2col_k3s2 linear64 col2im", "norm", "relu", "softmax", "positions"]
    assert all(found[above][1] < found[under][1] for above, under in pairwise(below))
    inwards = ["seq", "clone4 .. add", "permute231 .. identity", "relu"]
    # The name of the second sequence, inside the branches, stands for both.
    assert all(found[outer][0] < found[inner][0] for outer, inner in pairwise(inwards[1:]))
    assert found["norm"][0] == found["positions"][0] == found["clone4 .. add"][0]
    assert "4x" in found and "a <title>" in found


def test_boxes_keep_apart_and_inside() -> None:
    root = ET.fromstring(tree_svg(vit(), "vit"))
    boxes = [
        tuple(float(box.get(name, 0)) for name in ("x", "y", "width", "height"))
        for box in root.iter(f"{SVG}rect")
        if box.get("rx") == "4"
    ]
    for number, (x, y, width, height) in enumerate(boxes):
        assert 0 < x and x + width < float(root.get("width", 0)) and y + height < float(root.get("height", 0))
        for left, top, wide, high in boxes[:number]:
            assert x + width < left or left + wide < x or y + height < top or top + high < y
    assert len(re.findall("linear64", tree_svg(vit(), "vit"))) == 4 * 3
