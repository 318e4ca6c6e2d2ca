"""What the picture of a front shows: marks, lines and ranges, independent of the library that draws them."""

import html
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from nas.delivery.front import Candidate, DeviceFront, RecordedCandidate, RecordedDevice
from nas.search.baselines import LARGEST

Point = tuple[float, float]  # latency in ms, accuracy in %


def short_count(count: int) -> str:
    """Return a count with three significant digits, as in ``19.9 k`` or ``1.62 M``."""
    unit, name = (1e6, "M") if count >= 999_500 else (1e3, "k")
    return f"{count / unit:.3g} {name}" if count < 1e9 else f"{count / 1e6:,.0f} M"


@dataclass(frozen=True)
class Style:
    """How a mark looks: diameter ``size`` in px, Plotly ``symbol`` and matplotlib ``marker`` alike."""

    color: str
    symbol: str = "circle"
    marker: str = "o"
    size: int = 8
    opacity: float = 1.0
    hollow: bool = False


# Colours of Okabe and Ito (2008), told apart with all common kinds of colour blindness. A square always means
# the baseline family, a large mark always means measured.
_SMALL_STYLES = {
    "search": Style("#8b98a5", opacity=0.55),
    "start": Style("#cc79a7", "triangle-up", "^", size=9),
    "random": Style("#56b4e9", "diamond", "D", opacity=0.8),
    LARGEST: Style("#009e73", "pentagon", "p", size=8, opacity=0.8),
    "baseline": Style("#e69f00", "square", "s", size=9),
}
_NAMES = {LARGEST: "largest per bin", "baseline": "baseline family"}
FRONT_COLOR, _REJECTED_COLOR = "#0072b2", "#d55e00"


@dataclass(frozen=True)
class Marks:
    """Marks that share one legend entry; ``bars`` are (low, high) in ms, empty where nothing was measured."""

    label: str
    style: Style
    points: list[Point]
    hover: list[str]
    bars: list[tuple[float, float]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Picture:
    """Everything that is drawn, independent of the library that draws it."""

    title: str
    notes: list[str]
    small: list[Marks]
    large: list[Marks]
    connectors: list[tuple[Point, Point]]
    stairs: list[Point]
    budget_ms: float | None
    ms_range: tuple[float, float]
    percent_range: tuple[float, float]
    ms_title: str = "latency (ms)"
    percent_title: str = "validation accuracy (%)"


def staircase(points: Sequence[Point]) -> list[Point]:
    """Return the corners that join front ``points``, given by rising latency: right first, then up."""
    corners: list[Point] = []
    for point in points:
        if corners:
            corners.append((point[0], corners[-1][1]))
        corners.append(point)
    return corners


def axis_range(values: Sequence[float], must_show: Sequence[float]) -> tuple[float, float]:
    """Return the range of an axis that holds ``must_show`` and ``values`` except for far outliers.

    Far means more than 1.5 times the distance of the 10th and 90th percentile beyond them, so that a few
    networks at chance level do not press all others into one line.
    """
    shown = list(must_show)
    if values:
        low, high = np.quantile(values, [0.1, 0.9])
        reach = 1.5 * (high - low)
        shown += [value for value in values if low - reach <= value <= high + reach]
    if not shown:
        return 0.0, 1.0
    margin = 0.06 * (max(shown) - min(shown)) or 0.06 * abs(shown[0]) or 1.0
    return float(min(shown) - margin), float(max(shown) + margin)


def _describe(row: dict[str, Any]) -> list[str]:
    """Return the lines under the mouse that say which network it is."""
    # The text has a comma and no space between options: let lines break there.
    lines = textwrap.wrap(str(row["architecture"]).replace(",", ", "), width=60)
    text = [f"<b>{html.escape(str(row['id']))}</b> · {html.escape(str(row['origin']))}"]
    text += [html.escape(line.replace(", ", ",")) for line in lines]
    return [*text, f"{short_count(row['macs'])} MACs · {short_count(row['params'])} parameters"]


def _rating(row: dict[str, Any]) -> str:
    if row["accuracy"] is not None:
        return f"{100 * row['accuracy']:.2f} %"
    score = row["search_score"]
    return "not rated by the search" if score is None else f"of score {score:.4f}, which is no accuracy"


def _hover(row: dict[str, Any], finalist: Candidate | None) -> str:
    """Return what is shown under the mouse: every number either labelled predicted or measured."""
    text = [*_describe(row), f"predicted: {row['ms']:.3f} ms, {_rating(row)}"]
    if finalist is None:
        text.append("measured: no, not a finalist")
    else:
        interval = f"[{finalist.measured_ms_low:.3f} to {finalist.measured_ms_high:.3f}]"
        text.append(f"measured: {finalist.measured_ms:.3f} ms {interval}")
        text.append(f"measured: {100 * finalist.val_accuracy:.2f} % (test: {100 * finalist.test_accuracy:.2f} %)")
    return "<br>".join(text)


def _recorded_point(candidate: RecordedCandidate) -> Point:
    return candidate.ms, 100 * candidate.recorded_accuracy


def _measured_point(candidate: Candidate) -> Point:
    return candidate.measured_ms, 100 * candidate.val_accuracy


def _recorded_hover(row: dict[str, Any], device: RecordedDevice) -> str:
    lines = [*_describe(row), f"recorded: {100 * row['accuracy']:.2f} %", f"{device.ms_is}: {row['ms']:.3f} ms"]
    return "<br>".join(lines)


def _small_marks(evaluated: pd.DataFrame, known: str, hover_of: Callable[[dict[str, Any]], str]) -> list[Marks]:
    """Return the marks of all evaluated candidates; ``known`` says in the legend how their numbers are known."""
    marks = []
    # Drawn in the order of the styles: the baseline family lies on top.
    for origin in sorted(evaluated["origin"].unique(), key=list(_SMALL_STYLES).index):
        rows = evaluated[evaluated["origin"] == origin].to_dict("records")
        kind = _NAMES.get(origin, origin)
        points = [(float(row["ms"]), 100 * float(row["accuracy"])) for row in rows]
        hover = [hover_of(row) for row in rows]
        marks.append(Marks(f"{kind}, {known} ({len(rows)})", _SMALL_STYLES[origin], points, hover))
    return marks


def _measured_marks(device: DeviceFront) -> list[Marks]:
    """Return the marks of all finalists; the names number the front as its table does."""
    named = [("front", str(number), c) for number, c in enumerate(device.candidates, start=1)]
    named += [("rejected", "", c) for c in device.rejected]
    marks = []
    for status, color in (("rejected", _REJECTED_COLOR), ("front", FRONT_COLOR)):
        for baseline in (False, True):
            chosen = [(n, c) for s, n, c in named if s == status and (c.origin == "baseline") == baseline]
            if not chosen:
                continue
            symbol, marker = ("square", "s") if baseline else ("circle", "o")
            marks.append(
                Marks(
                    f"{status}{', baseline' if baseline else ''}, measured ({len(chosen)})",
                    Style(color, symbol, marker, size=12, hollow=status != "front"),
                    [_measured_point(c) for _, c in chosen],
                    [_hover(_as_row(c), c) for _, c in chosen],
                    [(c.measured_ms_low, c.measured_ms_high) for _, c in chosen],
                    [name for name, _ in chosen],
                )
            )
    return marks


def _as_row(candidate: Candidate) -> dict[str, Any]:
    """Return a finalist as the trial that it was."""
    return {**candidate.model_dump(), "ms": candidate.predicted_ms, "accuracy": candidate.search_accuracy}


def _recorded_marks(device: RecordedDevice) -> list[Marks]:
    """Return the marks of the front; the names number it as its table does."""
    marks = []
    numbered = list(enumerate(device.candidates, start=1))
    for baseline, symbol, marker in ((False, "circle", "o"), (True, "square", "s")):
        chosen = [(number, c) for number, c in numbered if (c.origin == "baseline") == baseline]
        if chosen:
            marks.append(
                Marks(
                    f"front{', baseline' if baseline else ''} ({len(chosen)})",
                    Style(FRONT_COLOR, symbol, marker, size=12),
                    [_recorded_point(c) for _, c in chosen],
                    [_recorded_hover({**c.model_dump(), "accuracy": c.recorded_accuracy}, device) for _, c in chosen],
                    names=[str(number) for number, _ in chosen],
                )
            )
    return marks


def _notes(first: str, budget_ms: float | None, unevaluated: int, outside: int, scored: int = 0) -> list[str]:
    notes = [first]
    hidden = []
    if scored:
        hidden.append(f"{scored} rated by scores, which are no accuracies")
    if unevaluated:
        hidden.append(f"{unevaluated} {'' if budget_ms is None else 'over the budget and '}never evaluated")
    if outside:
        hidden.append(f"{outside} outside this view")
    if hidden:
        notes.append(f"Not drawn: {', '.join(hidden)}.")
    return notes


def picture_of(trials: pd.DataFrame, device: DeviceFront | RecordedDevice) -> Picture:
    """Return what is to be drawn of one device's ``trials`` and front (see ``figures.front_figure``)."""
    return (
        _recorded_picture(trials, device) if isinstance(device, RecordedDevice) else _measured_picture(trials, device)
    )


def _measured_picture(trials: pd.DataFrame, device: DeviceFront) -> Picture:
    evaluated = trials[trials["accuracy"].notna()]
    finalists = {c.id: c for c in (*device.candidates, *device.rejected)}
    measured = _measured_marks(device)
    predicted = _small_marks(evaluated, "predicted", lambda row: _hover(row, finalists.get(row["id"])))
    rated = [(c, c.search_accuracy) for c in finalists.values() if c.search_accuracy is not None]
    connectors = [((c.predicted_ms, 100 * accuracy), _measured_point(c)) for c, accuracy in rated]
    ends = [*(point for point, _ in connectors), *(_measured_point(c) for c in finalists.values())]
    cloud = [point for marks in predicted for point in marks.points]
    milliseconds = [ms for ms, _ in ends] + [ms for marks in measured for bar in marks.bars for ms in bar]
    if device.budget_ms is not None:
        milliseconds.append(device.budget_ms)
    low_ms, high_ms = axis_range([ms for ms, _ in cloud], milliseconds)
    low, high = axis_range([percent for _, percent in cloud], [percent for _, percent in ends])
    outside = sum(not (low_ms <= ms <= high_ms and low <= percent <= high) for ms, percent in cloud)
    meaning = "Small marks: predicted by oracle and latency table. Large marks: measured, bars: 90 % interval."
    scored = int(trials["score"].notna().sum())
    return Picture(
        title=f"Front on {device.device}",
        notes=_notes(meaning, device.budget_ms, len(trials) - len(evaluated) - scored, outside, scored),
        small=predicted,
        large=measured,
        connectors=connectors,
        stairs=staircase([_measured_point(c) for c in device.candidates]),
        budget_ms=device.budget_ms,
        ms_range=(max(low_ms, 0.0), high_ms),
        percent_range=(low, high),
    )


def _recorded_picture(trials: pd.DataFrame, device: RecordedDevice) -> Picture:
    evaluated = trials[trials["accuracy"].notna()]
    small = _small_marks(evaluated, "looked up", lambda row: _recorded_hover(row, device))
    cloud = [point for marks in small for point in marks.points]
    front = [_recorded_point(c) for c in device.candidates]
    milliseconds = [ms for ms, _ in front] + ([] if device.budget_ms is None else [device.budget_ms])
    low_ms, high_ms = axis_range([ms for ms, _ in cloud], milliseconds)
    low, high = axis_range([percent for _, percent in cloud], [percent for _, percent in front])
    outside = sum(not (low_ms <= ms <= high_ms and low <= percent <= high) for ms, percent in cloud)
    known = "and latencies are recorded" if device.ms_is == "recorded" else "are recorded, latencies predicted"
    meaning = f"Accuracies {known}: nothing was trained or measured here."
    return Picture(
        title=f"Front on {device.device}",
        notes=_notes(meaning, device.budget_ms, len(trials) - len(evaluated), outside),
        small=small,
        large=_recorded_marks(device),
        connectors=[],
        stairs=staircase(front),
        budget_ms=device.budget_ms,
        ms_range=(max(low_ms, 0.0), high_ms),
        percent_range=(low, high),
        ms_title=f"{device.ms_is} latency (ms)",
        percent_title="recorded accuracy (%)",
    )
