"""The report of a run as one HTML file that opens offline, and the picture of each front as a PNG."""

import html
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd
import plotly.graph_objects as go

from dashboards.figures import curves_figure, front_figure, front_png
from dashboards.picture import short_count
from latency.files import produce, write_text
from nas.delivery.curves import Curve
from nas.delivery.front import Candidate, DeviceFront, Front, RecordedDevice, RecordedFront

_STYLE = """
:root { --ink: #1f2933; --muted: #5f6b76; --line: #e1e5e9; --accent: #0072b2; }
* { box-sizing: border-box; }
body { margin: 0; color: var(--ink); background: #f6f7f8; line-height: 1.5; font-size: 15px;
  font-family: system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 24px clamp(12px, 3vw, 40px) 48px; }
h1 { font-size: 26px; line-height: 1.25; margin: 8px 0 4px; }
h2 { font-size: 20px; margin: 40px 0 12px; overflow-wrap: anywhere; }
h3 { font-size: 16px; margin: 24px 0 8px; }
.lead, footer, .note { color: var(--muted); }
.lead, .note { margin: 0 0 12px; overflow-wrap: anywhere; }
.card { background: #fff; border: 1px solid var(--line); border-radius: 8px; padding: 12px 16px;
  overflow-x: auto; }
.figure > div { min-width: 640px; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 380px), 1fr)); gap: 16px; }
.cards h3 { margin-top: 4px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 6px 14px 6px 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); }
thead th { color: var(--muted); font-weight: 600; }
tbody tr:last-child > * { border-bottom: 0; }
.finalists td:not(:first-child) { white-space: nowrap; }
.finalists :is(th, td):nth-child(n + 3):nth-child(-n + 8) { text-align: right; }
.pairs th { font-weight: 400; color: var(--muted); width: 45%; }
.pairs td { overflow-wrap: anywhere; }
a { color: var(--accent); }
code { font-family: ui-monospace, Menlo, Consolas, monospace; font-size: 13px; }
footer code { overflow-wrap: anywhere; }
footer { margin-top: 40px; }
"""
_COLUMNS = (
    "id", "validation accuracy", "test accuracy", "predicted ms", "measured ms [90 % interval]", "MACs",
    "parameters", "origin", "network",
)  # fmt: skip

_OFF = ' <abbr title="more than 5 % from what was measured">!</abbr>'


def _text(value: object) -> str:
    """Return a value of the report as escaped text; floats with four significant digits."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{html.escape(str(key))}: {_text(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_text(item) for item in value)
    return html.escape(str(value))


def _pairs(values: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><th scope=row>{html.escape(label)}</th><td>{_text(value)}</td></tr>" for label, value in values.items()
    )
    return f'<table class="pairs"><tbody>{rows}</tbody></table>'


def _card(title: str, values: dict[str, Any]) -> str:
    return f'<section class="card"><h3>{html.escape(title)}</h3>{_pairs(values)}</section>'


def _table(columns: Sequence[str], rows: Iterable[str]) -> str:
    head = "".join(f"<th scope=col>{html.escape(column)}</th>" for column in columns)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    return f'<div class="card finalists">{table}</div>'


def _row(first: str, candidate: Candidate) -> str:
    """Return a finalist's table row; ``first`` (its number, or why it was rejected) is plain text."""
    interval = f"[{candidate.measured_ms_low:.3f} to {candidate.measured_ms_high:.3f}]"
    # Quoting keeps the link inside the folder of the report, whatever the name is.
    link = f'<a href="{html.escape(quote(candidate.onnx))}">{html.escape(Path(candidate.onnx).name)}</a>'
    numbers = (
        f"{100 * candidate.val_accuracy:.2f} %",
        f"{100 * candidate.test_accuracy:.2f} %",
        f"{candidate.predicted_ms:.3f}{'' if candidate.accurate_prediction else _OFF}",
        f"{candidate.measured_ms:.3f} {interval}",
        short_count(candidate.macs),
        short_count(candidate.params),
    )
    cells = [
        html.escape(first),
        f'<code title="{html.escape(candidate.architecture)}">{html.escape(candidate.id)}</code>',
    ]
    vouches = f'<a href="{html.escape(quote(candidate.certificate))}">certificate</a>'
    cells += [*numbers, html.escape(candidate.origin), f"{link}, {vouches}"]
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _figure(figure: go.Figure, name: str, height_px: int, library: bool = False) -> str:
    """Return a figure; the first of the page carries plotly.js, the ``library``, for all."""
    text = figure.to_html(
        full_html=False,
        include_plotlyjs=library,
        default_height=f"{height_px}px",
        div_id=name,
        # Plotly's default has a button that uploads the figure to its makers' cloud.
        config={"displaylogo": False, "responsive": True, "showSendToCloud": False},
    )
    return f'<div class="card figure">{text}</div>'


def _front_figure(number: int, device: DeviceFront | RecordedDevice, trials: pd.DataFrame) -> str:
    return _figure(front_figure(trials, device), f"front-{number}", 640, library=number == 1)


def _training(curves: Sequence[Curve]) -> str:
    """Return the section of learning curves, empty where nothing was trained."""
    if not curves:
        return ""
    note = "Losses of the supernet and of finalists differ in kind where their recipes do (soft labels, mixed images)."
    figure = _figure(curves_figure(curves), "curves", 420)
    return f'<h2>Training</h2><p class="note">{note}</p>{figure}'


def _budget(device: DeviceFront | RecordedDevice) -> str:
    return "no latency budget" if device.budget_ms is None else f"budget {device.budget_ms:g} ms"


def _device(number: int, device: DeviceFront, trials: pd.DataFrame) -> str:
    facts = ", ".join(f"{key}: {value}" for key, value in device.fingerprint.items() if key != "device")
    state = f"Measured at {device.drift:.3f} x the latency of when the table was built; {device.host}."
    rows = [_row(str(place), candidate) for place, candidate in enumerate(device.candidates, start=1)]
    parts = [
        f"<h2>{html.escape(device.device)}</h2>",
        f'<p class="note">{html.escape(_budget(device) + (f"; {facts}" if facts else ""))}. {html.escape(state)}</p>',
        _front_figure(number, device, trials),
        "<h3>Front, numbered as in the figure</h3>",
        _table(("", *_COLUMNS), rows) if rows else "<p>No finalist is on the front.</p>",
        "<h3>Beside the hand-made family</h3>",
        _pairs(device.comparison.lines()) if device.comparison else f"<p>{html.escape(device.compared)}.</p>",
    ]
    if device.rejected:
        rejected = [_row(candidate.reason, candidate) for candidate in device.rejected]
        parts += ["<h3>Rejected finalists</h3>", _table(("reason", *_COLUMNS), rejected)]
    return "".join(parts)


def _recorded_device(number: int, device: RecordedDevice, trials: pd.DataFrame) -> str:
    rows = []
    for place, c in enumerate(device.candidates, start=1):
        cells = (
            str(place), c.id, f"{100 * c.recorded_accuracy:.2f} %", f"{c.ms:.3f}", short_count(c.macs),
            short_count(c.params), c.origin, c.architecture,
        )  # fmt: skip
        rows.append(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in cells)}</tr>")
    columns = ("", "id", "recorded accuracy", f"{device.ms_is} ms", "MACs", "parameters", "origin", "architecture")
    note = f"{_budget(device)}; {device.ms_is} latencies from {device.source}, SHA-256 {device.source_sha256[:12]}."
    return (
        f'<h2>{html.escape(device.device)}</h2><p class="note">{html.escape(note)}</p>'
        f"{_front_figure(number, device, trials)}<h3>Front, numbered as in the figure</h3>{_table(columns, rows)}"
    )


def _headings(front: Front | RecordedFront) -> tuple[str, str]:
    """Return the title of the page and what stands below it."""
    shape = " x ".join(str(size) for size in front.input_shape)
    if isinstance(front, Front):
        lead = f"Data {front.data}, {len(front.classes)} classes, input {shape}."
        return (
            f"Front of {front.space} on {Path(front.data).name or front.data}",
            f"{lead} Every number is measured, or labelled predicted.",
        )
    return (
        f"Front of {front.space} by recorded tables",
        f"Accuracies recorded in {front.source}, SHA-256 {front.source_sha256[:12]}; nothing was trained or measured "
        f"here. MACs and parameters are those at {front.classes} classes, input {shape}.",
    )


def _sections(front: Front | RecordedFront, trials: dict[str, pd.DataFrame]) -> Iterator[str]:
    devices: Sequence[DeviceFront | RecordedDevice] = front.devices
    for number, device in enumerate(devices, start=1):
        if isinstance(device, RecordedDevice):
            yield _recorded_device(number, device, trials[device.device])
        else:
            yield _device(number, device, trials[device.device])


def _page(
    front: Front | RecordedFront, trials: dict[str, pd.DataFrame], run: dict[str, Any], curves: Sequence[Curve]
) -> str:
    title, lead = map(html.escape, _headings(front))
    devices = "".join(_sections(front, trials))
    quality = "".join(_card(section, values) for section, values in run["report"].items())
    stages = {name: f"{seconds:,.1f} s" for name, seconds in run["stages"].items()}
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{_STYLE}</style></head><body><main>"
        f'<h1>{title}</h1><p class="lead">{lead}</p>'
        f'{devices}{_training(curves)}<h2>Quality</h2><div class="cards">{quality}</div>'
        f"<footer><h2>How it was made</h2><p>Command: <code>{html.escape(run['command'])}</code></p>"
        f'<div class="cards">{_card("Stages", stages)}'
        f"{_card('Seed and versions', {'seed': run['seed'], **run['versions']})}</div></footer>"
        "</main></body></html>\n"
    )


def write_report(
    folder: Path,
    front: Front | RecordedFront,
    trials: dict[str, pd.DataFrame],
    run: dict[str, Any],
    curves: Sequence[Curve] = (),
) -> Path:
    """Write ``front.html`` and, for the first device and each other, ``front.png`` and ``front-<n>.png``.

    Args:
        folder: where the files go; the ``onnx`` of candidates are relative to it.
        front: the fronts of all devices.
        trials: device name -> trials of the study, as ``dashboards.figures.front_figure`` takes them.
        run: ``command`` (str), ``versions`` (name -> version), ``seed`` (int), ``stages`` (name -> seconds)
            and ``report`` (section title -> {label: value}).
        curves: how the trainings of the run went.

    Returns:
        The path of ``front.html``.
    """
    devices: Sequence[DeviceFront | RecordedDevice] = front.devices
    for number, device in enumerate(devices, start=1):
        name = "front.png" if number == 1 else f"front-{number}.png"
        produce(folder / name, partial(front_png, trials[device.device], device))
    path = folder / "front.html"
    write_text(path, _page(front, trials, run, curves))
    return path
