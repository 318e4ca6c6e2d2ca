"""Draw the picture of a front: with Plotly for a browser, with matplotlib as a PNG.

Two libraries because Plotly needs a browser to make a PNG; both draw the same ``Picture``, so that they
cannot disagree.
"""

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from dashboards.picture import FRONT_COLOR, Marks, Picture, picture_of
from nas.delivery.curves import Curve
from nas.delivery.front import DeviceFront, RecordedDevice

CONNECTOR_LABEL = "from predicted to measured"
_INK, _MUTED, _GRID, _CONNECTOR = "#1f2933", "#5f6b76", "#e8ebee", "#a9b1b9"
_FONT = "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif"
_AXIS = {"gridcolor": _GRID, "linecolor": _CONNECTOR, "showline": True, "zeroline": False, "ticks": "outside"}
_BUTTONS = {"remove": ["lasso", "select", "zoomin", "zoomout"]}
_BOTTOM = {"orientation": "h", "yref": "container", "y": 0.01, "yanchor": "bottom", "x": 0}
_TOP_LEFT = {"x": 0.01, "xanchor": "left", "y": 1, "yanchor": "top", "pad": {"t": 16}, "font": {"size": 17}}


def _reach(marks: Marks) -> tuple[list[float], list[float]]:
    """Return how far in ms the bars of ``marks`` reach to the left and to the right."""
    pairs = list(zip(marks.points, marks.bars, strict=True))
    return [ms - low for (ms, _), (low, _) in pairs], [high - ms for (ms, _), (_, high) in pairs]


def _trace(marks: Marks) -> go.Scatter:
    style = marks.style
    bars = None
    if marks.bars:
        low, high = _reach(marks)
        bars = {"type": "data", "symmetric": False, "array": high, "arrayminus": low}
        bars |= {"color": style.color, "thickness": 1.5, "width": 4}
    return go.Scatter(
        x=[ms for ms, _ in marks.points],
        y=[percent for _, percent in marks.points],
        name=marks.label,
        hovertext=marks.hover,
        hoverinfo="text",
        error_x=bars,
        mode="markers+text" if any(marks.names) else "markers",
        text=marks.names or None,
        textposition="top left",
        textfont={"size": 13, "color": style.color},
        opacity=style.opacity,
        cliponaxis=not marks.names,
        marker={
            "symbol": style.symbol,
            "size": style.size,
            "color": "white" if style.hollow else style.color,
            "line": {"width": 2 if style.hollow else 1, "color": style.color if style.hollow else "white"},
        },
    )


def _line(points: Sequence[tuple[float | None, float | None]], **values: Any) -> go.Scatter:
    return go.Scatter(x=[p[0] for p in points], y=[p[1] for p in points], mode="lines", hoverinfo="skip", **values)


def front_figure(trials: pd.DataFrame, device_front: DeviceFront | RecordedDevice) -> go.Figure:
    """Return the interactive picture of one device: latency in ms against accuracy in %.

    Args:
        trials: one row per trial with ``id``, ``architecture``, ``origin``, ``accuracy`` and ``score``
            (fractions, NaN where it is not rated by one), ``ms``, ``macs`` and ``params``.
        device_front: the measured finalists of the device, or its front by recorded tables; and its budget in ms.
    """
    picture = picture_of(trials, device_front)
    breaks = [point for start, end in picture.connectors for point in (start, end, (None, None))]
    thin, steps = {"color": _CONNECTOR, "width": 1}, {"color": FRONT_COLOR, "width": 2}
    traces = [_trace(marks) for marks in picture.small]
    if breaks:
        traces.append(_line(breaks, name=CONNECTOR_LABEL, line=thin))
    if picture.stairs:
        traces.append(_line(picture.stairs, name="staircase", line=steps, showlegend=False))
    figure = go.Figure([*traces, *(_trace(marks) for marks in picture.large)])
    _lay_out(figure, picture)
    return figure


def _lay_out(figure: go.Figure, picture: Picture) -> None:
    small = f"<span style='font-size:12px;color:{_MUTED}'>{'<br>'.join(picture.notes)}</span>"
    # Plotly leaves no room for a legend at the bottom: two columns fit, all but the staircase have an entry.
    legend_px = 20 * (len(figure.data) // 2)
    figure.update_layout(
        # Empty: Plotly's own is larger than the data, and Optuna Dashboard brings another version of Plotly.
        template=go.layout.Template(),
        paper_bgcolor="white",
        plot_bgcolor="white",
        hovermode="closest",
        font={"family": _FONT, "size": 13, "color": _INK},
        hoverlabel={"align": "left", "bgcolor": "white"},
        title={**_TOP_LEFT, "text": f"<b>{html.escape(picture.title)}</b><br>{small}"},
        margin={"l": 64, "r": 20, "t": 58 + 17 * len(picture.notes), "b": 50 + legend_px},
        modebar=_BUTTONS,
        legend={**_BOTTOM, "entrywidth": 215, "font": {"size": 12}},
        xaxis={**_AXIS, "title": {"text": picture.ms_title}, "range": list(picture.ms_range)},
        yaxis={**_AXIS, "title": {"text": picture.percent_title}, "range": list(picture.percent_range)},
    )
    if picture.budget_ms is not None:
        text = f"budget {picture.budget_ms:g} ms"
        above = {"text": text, "yref": "paper", "y": 1, "yanchor": "bottom", "xanchor": "center"}
        figure.add_vline(picture.budget_ms, line={"dash": "dash", "color": _INK, "width": 1.5}, annotation=above)


def curves_figure(curves: Sequence[Curve]) -> go.Figure:
    """Return how trainings went: the mean loss of each epoch over the share of the training that was done then.

    Of the finalists the legend tells the validation accuracy.
    """
    figure = go.Figure([_curve(curve) for curve in curves])
    figure.update_layout(
        template=go.layout.Template(),
        paper_bgcolor="white",
        plot_bgcolor="white",
        font={"family": _FONT, "size": 13, "color": _INK},
        margin={"l": 64, "r": 20, "t": 28, "b": 50},
        modebar=_BUTTONS,
        xaxis={**_AXIS, "title": {"text": "epochs done, % of each training"}, "range": [0, 101]},
        yaxis={**_AXIS, "title": {"text": "mean training loss"}, "rangemode": "tozero"},
    )
    return figure


def _curve(curve: Curve) -> go.Scatter:
    epochs = len(curve.losses)
    ended = "" if curve.val_accuracy is None else f", validation {100 * curve.val_accuracy:.2f} %"
    return go.Scatter(
        x=[100 * (epoch + 1) / epochs for epoch in range(epochs)],
        y=curve.losses,
        name=html.escape(curve.name + ended),
        hovertext=[f"epoch {epoch + 1} of {epochs}: {loss:.4g}" for epoch, loss in enumerate(curve.losses)],
        hoverinfo="name+text",
        mode="lines+markers" if epochs < 20 else "lines",
        line={"dash": "dot", "color": _MUTED} if curve.val_accuracy is None else {},
    )


def _scatter(axes: Any, marks: Marks) -> None:
    style = marks.style
    x, y = [ms for ms, _ in marks.points], [percent for _, percent in marks.points]
    if marks.bars:
        axes.errorbar(x, y, xerr=_reach(marks), fmt="none", ecolor=style.color, capsize=4, zorder=4)
    axes.scatter(
        x,
        y,
        s=style.size**2,
        marker=style.marker,
        label=marks.label,
        alpha=style.opacity,
        zorder=5 if marks.names else 2,
        facecolor="white" if style.hollow else style.color,
        edgecolor=style.color if style.hollow else "white",
        linewidth=2 if style.hollow else 0.8,
    )
    for point, name in zip(marks.points, marks.names, strict=False):
        axes.annotate(
            name,
            point,
            (-7, 6),
            textcoords="offset points",
            ha="right",
            color=style.color,
            fontsize=13,
            zorder=6,
            annotation_clip=True,
        )


def front_png(trials: pd.DataFrame, device_front: DeviceFront | RecordedDevice, path: Path) -> None:
    """Draw the picture of ``front_figure`` to a PNG of 1600 x 1000 px at ``path``."""
    picture = picture_of(trials, device_front)
    figure = Figure(figsize=(16, 10), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    for marks in picture.small:
        _scatter(axes, marks)
    if picture.connectors:
        axes.add_collection(
            LineCollection(picture.connectors, colors=_CONNECTOR, linewidths=1, zorder=3, label=CONNECTOR_LABEL)
        )
    axes.plot(
        [ms for ms, _ in picture.stairs],
        [percent for _, percent in picture.stairs],
        color=FRONT_COLOR,
        zorder=3.5,
    )
    for marks in picture.large:
        _scatter(axes, marks)
    if picture.budget_ms is not None:
        axes.axvline(picture.budget_ms, color=_INK, linestyle="--", linewidth=1.5, zorder=1.5)
        axes.annotate(
            f"budget {picture.budget_ms:g} ms",
            (picture.budget_ms, 1),
            (0, 4),
            xycoords=axes.get_xaxis_transform(),
            textcoords="offset points",
            ha="center",
            fontsize=13,
            annotation_clip=False,
        )
    axes.set(xlim=picture.ms_range, ylim=picture.percent_range)
    _decorate(figure, axes, picture)
    figure.savefig(path, format="png")


def _decorate(figure: Figure, axes: Any, picture: Picture) -> None:
    # A "$" in a device's name is no formula.
    figure.suptitle(picture.title, x=0.01, ha="left", fontsize=19, fontweight="bold", parse_math=False)
    axes.set_title("\n".join(picture.notes), loc="left", fontsize=13, color=_MUTED, pad=26)
    axes.set_xlabel(picture.ms_title, fontsize=15)
    axes.set_ylabel(picture.percent_title, fontsize=15)
    axes.tick_params(labelsize=13, color=_CONNECTOR)
    axes.grid(color=_GRID)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(_CONNECTOR)
    handles, _ = axes.get_legend_handles_labels()
    if handles:
        figure.legend(loc="outside lower left", ncols=3, fontsize=13, frameon=False)
