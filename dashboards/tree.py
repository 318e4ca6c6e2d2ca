"""Draw a derivation tree as SVG: the root on the left, what runs first on top."""

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape

from search_spaces.einspace.derivation import Branch, Module, Op, Route, Seq
from search_spaces.einspace.grammar import BRANCH, IDENTITY, OP, ROUTE, SEQ

# Tints of Okabe and Ito's colours (2008), told apart with all common kinds of colour blindness: fill and border.
_COLORS = {
    SEQ: ("#eef1f3", "#8b98a5"),
    BRANCH: ("#d6ebf7", "#0072b2"),
    ROUTE: ("#fdeecb", "#e69f00"),
    OP: ("#d9f2e6", "#009e73"),
}
_KINDS = {
    SEQ: "one after another",
    BRANCH: "branches between their split and what joins them",
    ROUTE: "between two functions that reorder the data",
    OP: "one function",
}
_INK, _LINE = "#1f2933", "#a9b1b9"
_CHARACTER, _ROW, _BOX, _GAP, _MARGIN = 7.3, 26, 20, 34, 24  # px
_HEAD = 64


@dataclass
class _Node:
    """A module with its place: the column, and the row, which may lie between two."""

    kind: str
    label: str
    children: list["_Node"]
    copies: int = 1
    column: int = 0
    row: float = 0.0

    @property
    def width(self) -> float:
        return _CHARACTER * len(self.label) + 14


def tree_svg(tree: Module, title: str) -> str:
    """Return the picture of a derivation tree under ``title``; sequences within sequences are one."""
    root = _node(tree)
    rows = _place(root, 0, 0)
    nodes = list(_walk(root))
    widest = [0.0] * (1 + max(node.column for node in nodes))
    for node in nodes:
        widest[node.column] = max(widest[node.column], node.width)
    lefts = [_MARGIN + sum(widest[:column]) + column * _GAP for column in range(len(widest))]
    parts = [_edge(node, child, lefts) for node in nodes for child in node.children]
    parts += [_box(node, lefts) for node in nodes]
    legend = " ".join(_legend())
    width = max(lefts[-1] + widest[-1] + _MARGIN, _MARGIN + _CHARACTER * len(title), _legend_width())
    height = _HEAD + rows * _ROW + _MARGIN
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" '
        f'font-family="ui-monospace, Menlo, Consolas, monospace" font-size="12">\n'
        f'<rect width="100%" height="100%" fill="white"/>\n'
        f'<text x="{_MARGIN}" y="24" fill="{_INK}" font-weight="bold">{escape(title)}</text>\n{legend}\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _node(module: Module) -> _Node:
    match module:
        case Op(function):
            return _Node(OP, function, [])
        case Seq():
            return _Node(SEQ, SEQ, [_node(each) for each in _in_a_row(module)])
        case Route(pre, Op(function), post):
            return _Node(ROUTE, " ".join(name for name in (pre, function, post) if name != IDENTITY) or IDENTITY, [])
        case Route(pre, inner, post):
            return _Node(ROUTE, f"{pre} .. {post}", [_node(inner)])
        case Branch(branching, aggregation, inners):
            children = [_node(inner) for inner in inners]
            for child in children:
                child.copies = module.copies
            return _Node(BRANCH, f"{branching} .. {aggregation}", children)


def _in_a_row(module: Module) -> Iterator[Module]:
    if isinstance(module, Seq):
        yield from _in_a_row(module.first)
        yield from _in_a_row(module.second)
    else:
        yield module


def _place(node: _Node, column: int, row: int) -> int:
    """Place a node and what is below it from ``row`` on; return the next free row."""
    node.column = column
    free = row
    for child in node.children:
        free = _place(child, column + 1, free)
    node.row = (node.children[0].row + node.children[-1].row) / 2 if node.children else row
    return max(free, row + 1)


def _walk(node: _Node) -> Iterator[_Node]:
    yield node
    for child in node.children:
        yield from _walk(child)


def _middle(node: _Node) -> float:
    return _HEAD + node.row * _ROW + _ROW / 2


def _edge(parent: _Node, child: _Node, lefts: list[float]) -> str:
    """Return the line to a child, with the number of its copies."""
    start, end = lefts[parent.column] + parent.width, lefts[child.column]
    bend = end - _GAP / 2
    path = f"M{start:.1f} {_middle(parent):.1f}H{bend:.1f}V{_middle(child):.1f}H{end:.1f}"
    line = f'<path d="{path}" fill="none" stroke="{_LINE}"/>'
    if child.copies == 1:
        return line
    place = f'x="{bend + 2:.1f}" y="{_middle(child) - 4:.1f}"'
    return f'{line}<text {place} fill="{_INK}" font-size="10">{child.copies}x</text>'


def _box(node: _Node, lefts: list[float]) -> str:
    fill, border = _COLORS[node.kind]
    left, middle = lefts[node.column], _middle(node)
    return (
        f'<rect x="{left:.1f}" y="{middle - _BOX / 2:.1f}" width="{node.width:.1f}" height="{_BOX}" rx="4" '
        f'fill="{fill}" stroke="{border}"/>'
        f'<text x="{left + 7:.1f}" y="{middle + 4:.1f}" fill="{_INK}">{escape(node.label)}</text>'
    )


def _legend_width() -> float:
    return 2 * _MARGIN + sum(_CHARACTER * len(f"{kind}: {text}") + 40 for kind, text in _KINDS.items())


def _legend() -> Iterator[str]:
    left = float(_MARGIN)
    for kind, text in _KINDS.items():
        fill, border = _COLORS[kind]
        label = f"{kind}: {text}"
        yield f'<rect x="{left:.1f}" y="36" width="14" height="14" rx="3" fill="{fill}" stroke="{border}"/>'
        yield f'<text x="{left + 20:.1f}" y="47" fill="{_INK}">{label}</text>'
        left += _CHARACTER * len(label) + 40
