"""Optuna Dashboard on the study of a run, with the front of each device attached."""

import io
import logging
import re
from collections.abc import Callable
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import optuna
import plotly.graph_objects as go
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna_dashboard import save_plotly_graph_object, wsgi

from search_spaces.errors import InputError

# The dashboard has no authentication: whoever reaches it can rename and delete studies.
HOST = "127.0.0.1"
# Where save_plotly_graph_object keeps a figure: this prefix, its id, ":" and the number of the piece.
_FIGURE_KEY = "dashboard:plot_data:"

_log = logging.getLogger(__name__)


class _Handler(WSGIRequestHandler):
    """Answers a request without a line on the terminal."""

    def log_message(self, format: str, *args: Any) -> None:
        _log.debug(format, *args)

    def get_stderr(self) -> io.StringIO:
        # Bottle's copy of a traceback that the browser shows as well.
        return io.StringIO()


class _Server(ThreadingMixIn, WSGIServer):
    """Answers several requests at a time, as the dashboard's pages send them."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        # Such as a browser that closed its page while it was loading.
        _log.debug("request of %s failed", client_address, exc_info=True)


def _bind(port: int) -> _Server:
    try:
        return _Server((HOST, port), _Handler)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InputError(f"port {port} cannot be used ({reason}); choose another with --port") from None
    except OverflowError:
        raise InputError(f"port {port} is not within 0 to 65535; choose another with --port") from None


def _open(journal: Path, study_name: str) -> optuna.Study:
    # JournalFileBackend would create a missing file.
    if not journal.is_file():
        raise InputError(f"study journal {journal} does not exist; run the search first")
    storage = JournalStorage(JournalFileBackend(str(journal)))
    try:
        return optuna.load_study(storage=storage, study_name=study_name)
    except KeyError:
        raise InputError(f"study journal {journal} has no study {study_name!r}") from None


def attach(study: optuna.Study, figures: dict[str, go.Figure]) -> None:
    """Attach ``figures`` (name -> figure) to ``study``; a figure of the same name is replaced.

    A figure that is attached already is not written again, as the journal only ever grows.
    """
    stored = study._storage.get_study_system_attrs(study._study_id)
    for name, figure in figures.items():
        # Optuna Dashboard takes valid HTML ids only.
        figure_id = re.sub(r"[^A-Za-z0-9_.-]", "-", f"front-{name}")
        prefix = f"{_FIGURE_KEY}{figure_id}:"
        pieces = {int(key.rpartition(":")[2]): text for key, text in stored.items() if key.startswith(prefix)}
        if "".join(text for _, text in sorted(pieces.items())) != figure.to_json():
            save_plotly_graph_object(study, figure, graph_object_id=figure_id)


def serve(
    journal: Path,
    study_name: str,
    figures: dict[str, go.Figure],
    port: int,
    ready: Callable[[str], object] = lambda url: None,
) -> None:
    """Serve Optuna Dashboard on the loopback interface until interrupted; nothing is printed.

    Args:
        journal: Optuna's journal file, which must exist.
        study_name: the study in it to attach the figures to.
        figures: name (such as the device's) -> figure, shown on the study's page.
        port: TCP port; 0 takes a free one.
        ready: called with the address of the study's page once the port is taken and the figures are
            attached.

    Raises:
        InputError: the port is in use (nothing was written then), or there is no such journal or study.
        KeyboardInterrupt: Ctrl-C was pressed; the port is free again.
    """
    with _bind(port) as server:
        study = _open(journal, study_name)
        attach(study, figures)
        server.set_app(wsgi(study._storage))
        ready(f"http://{HOST}:{server.server_port}/dashboard/studies/{study._study_id}")
        server.serve_forever()
