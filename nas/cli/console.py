"""What a run shows in the terminal."""

import shlex
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from nas.delivery.front import DeviceFront, Front, RecordedDevice, RecordedFront
from nas.devices import Progress as Report

_LOG_WIDTH = None if sys.stdout.isatty() else 120
console = Console(highlight=False, soft_wrap=True, width=_LOG_WIDTH)
# Progress is for eyes: it goes to standard error, so that standard output stays what a script expects.
_status = Console(stderr=True, highlight=False)


def typed() -> str:
    """Return the command as the user would type it again: what a run records."""
    return shlex.join(["nas", *sys.argv[1:]])


class Terminal:
    """Lines, tables and progress bars; plain lines where the output is no terminal."""

    def say(self, text: str) -> None:
        """Show a line."""
        console.print(text, markup=False)

    def table(self, title: str, columns: list[str], rows: Iterable[list[str]]) -> None:
        """Show a table; numbers are aligned to the right."""
        console.print(title, style="bold", markup=False)
        grid = Table(box=None, pad_edge=False)
        for position, column in enumerate(columns):
            grid.add_column(column, justify="left" if position == 0 else "right", overflow="fold")
        for row in rows:
            grid.add_row(*row)
        console.print(grid, soft_wrap=False)

    @contextmanager
    def progress(self, title: str) -> Iterator[Report]:
        """Show a bar as long as the context is open; it pulses until the total is known. In a log, show a line."""
        if not sys.stderr.isatty():
            _status.print(f"{title} ...", markup=False, soft_wrap=True)
            yield lambda done, total: None
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=_status, transient=True) as bars:
            bar = bars.add_task(title, total=None)
            yield lambda done, total: bars.update(bar, completed=done, total=total)


def show_front(front: Front | RecordedFront) -> None:
    """Print each device's front as a table; the heads say what is predicted, what measured and what recorded."""
    for device in front.devices:
        if isinstance(device, RecordedDevice):
            _show_recorded(device)
        else:
            _show_measured(device)


def _title(device: DeviceFront | RecordedDevice) -> str:
    budget = f", budget {device.budget_ms:g} ms" if device.budget_ms is not None else ""
    return f"Front on {device.device}{budget}"


def _show_measured(device: DeviceFront) -> None:
    columns = ["id", "val. %", "test %", "pred. ms", "meas. ms", "90 % interval", "MMACs", "origin"]
    rows = [
        [
            c.id, f"{100 * c.val_accuracy:.2f}", f"{100 * c.test_accuracy:.2f}",
            f"{c.predicted_ms:.3g}{' ' if c.accurate_prediction else '!'}",
            f"{c.measured_ms:.3g}", f"{c.measured_ms_low:.3g}-{c.measured_ms_high:.3g}",
            f"{c.macs / 1e6:.3g}", c.origin,
        ]
        for c in device.candidates
    ]  # fmt: skip
    Terminal().table(_title(device), columns, rows)
    if not all(c.accurate_prediction for c in device.candidates):
        console.print(
            f"! more than 5 % from what was measured; the device is now at {device.drift:.3f} x the latency of "
            "when its table was built",
            markup=False,
        )
    console.print(device.compared, markup=False)
    for rejected in device.rejected:
        console.print(
            f"not on the front: {rejected.id} ({rejected.origin}, {100 * rejected.val_accuracy:.2f} %, "
            f"{rejected.measured_ms:.3g} ms measured): {rejected.reason}",
            markup=False,
        )


def _show_recorded(device: RecordedDevice) -> None:
    columns = ["id", "recorded %", f"{device.ms_is} ms", "MMACs", "origin"]
    rows = [
        [c.id, f"{100 * c.recorded_accuracy:.2f}", f"{c.ms:.3g}", f"{c.macs / 1e6:.3g}", c.origin]
        for c in device.candidates
    ]
    Terminal().table(_title(device), columns, rows)
