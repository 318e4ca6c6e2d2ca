import json
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import optuna
import plotly.graph_objects as go
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from dashboards.board import HOST, attach, serve
from search_spaces.errors import InputError

SERVE = """
import sys
from pathlib import Path
import plotly.graph_objects as go
from dashboards.board import serve
try:
    serve(Path(sys.argv[1]), "flowers", {"cpu 1": go.Figure(go.Scatter(x=[1], y=[2]))}, 0,
          lambda url: print(url, flush=True))
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def _open(journal: Path) -> optuna.Study:
    return optuna.load_study(storage=JournalStorage(JournalFileBackend(str(journal))), study_name="flowers")


def _figures(study: optuna.Study) -> dict[str, str]:
    """Return the attached figures by id, put together as Optuna Dashboard does."""
    pieces = {}
    for key, text in study._storage.get_study_system_attrs(study._study_id).items():
        _, _, rest = key.split(":", 2)
        name, _, number = rest.rpartition(":")
        pieces.setdefault(name, {})[int(number)] = text
    return {name: "".join(text for _, text in sorted(parts.items())) for name, parts in pieces.items()}


def _get(url: str) -> object:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=10) as answer:
        return json.load(answer)


@pytest.fixture
def journal(tmp_path):
    path = tmp_path / "study.log"
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = JournalStorage(JournalFileBackend(str(path)))
    study = optuna.create_study(storage=storage, study_name="flowers", directions=["maximize", "minimize"])
    study.add_trial(optuna.trial.create_trial(values=[0.7, 3.2]))
    return path


def _figure(points: int) -> go.Figure:
    return go.Figure(go.Scatter(x=list(range(points)), y=[1.5] * points))


def test_port_in_use_is_one_line_and_leaves_the_journal_alone(journal):
    before = journal.read_bytes()
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=rf"^port {port} cannot be used \(.+\); choose another with --port$"):
            serve(journal, "flowers", {"cpu": _figure(3)}, port)
    assert journal.read_bytes() == before
    assert list(journal.parent.iterdir()) == [journal]


def test_port_out_of_range(journal):
    with pytest.raises(InputError, match=r"port 70000 .* --port"):
        serve(journal, "flowers", {}, 70000)


def test_missing_journal_is_not_created(tmp_path):
    with pytest.raises(InputError, match=r"none\.log does not exist"):
        serve(tmp_path / "none.log", "flowers", {}, 0)
    assert not list(tmp_path.iterdir())


def test_missing_study(journal):
    with pytest.raises(InputError, match="has no study 'trees'"):
        serve(journal, "trees", {}, 0)


def test_attach_replaces_and_writes_nothing_when_nothing_changed(journal):
    long, short = _figure(2000), _figure(5)
    attach(_open(journal), {"cpu <1>": long})
    assert _figures(_open(journal)) == {"front-cpu--1-": long.to_json()}
    before = journal.read_bytes()
    attach(_open(journal), {"cpu <1>": long})
    assert journal.read_bytes() == before
    attach(_open(journal), {"cpu <1>": short})
    assert _figures(_open(journal)) == {"front-cpu--1-": short.to_json()}


def test_ctrl_c_propagates_and_frees_the_port(journal):
    urls = []

    def interrupt(url):
        urls.append(url)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        serve(journal, "flowers", {}, 0, interrupt)
    port = int(urls[0].split(":")[2].split("/")[0])
    with socket.create_server((HOST, port)):
        pass


def test_serves_the_study_on_loopback_without_noise_until_interrupted(journal):
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(journal)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        url = process.stdout.readline().strip()
        assert url.startswith(f"http://{HOST}:") and url.endswith("/dashboard/studies/0")
        root = url.partition("/dashboard")[0]
        (study,) = _get(f"{root}/api/studies")["study_summaries"]
        assert study["study_name"] == "flowers"
        detail = _get(f"{root}/api/studies/0?after=0")
        assert [graph["id"] for graph in detail["plotly_graph_objects"]] == ["front-cpu-1"]
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (out, err, process.returncode) == ("interrupted\n", "", 0)
