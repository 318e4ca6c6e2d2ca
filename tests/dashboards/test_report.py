import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from dashboards.report import write_report
from nas.delivery.curves import Curve
from nas.delivery.front import Front, RecordedFront
from nas.delivery.value import Point, compare

HOSTILE = "<script>alert(1)</script>"
RUN = {
    "report": {
        "Latency table": {"median error": "2.1 %", "rank correlation": 0.98712},
        f"Oracle {HOSTILE}": {
            "networks": 12,
            "reproduced": True,
            HOSTILE: None,
            "parts": {"a": 1, "b": [2, 3]},
        },
    },
    "command": f"nas search --data '{HOSTILE}'",
    "versions": {"torch": "2.9.1"},
    "seed": 3,
    "stages": {"measure": 812.34},
}


class _Page(HTMLParser):
    """Collects tags with their attributes, and the text outside of scripts and styles."""

    def __init__(self):
        super().__init__()
        self.tags, self.text, self._open = [], [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._open = tag

    def handle_endtag(self, tag):
        self._open = ""

    def handle_data(self, data):
        if self._open not in ("script", "style"):
            self.text.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def front(device_front):
    other = device_front.model_copy(update={"device": HOSTILE, "budget_ms": None, "rejected": ()})
    return Front(
        space="fbnet",
        input_shape=(3, 64, 64),
        data=f"data/{HOSTILE}",
        data_digest="0",
        classes=("cat", HOSTILE),
        devices=(device_front, other),
    )


@pytest.fixture
def page(front, trials, tmp_path):
    path = write_report(tmp_path, front, {device.device: trials for device in front.devices}, RUN)
    assert path == tmp_path / "front.html"
    parser = _Page()
    parser.feed(path.read_text(encoding="utf-8"))
    return parser


def test_page_loads_nothing_from_elsewhere(page):
    assert not [tag for tag, attributes in page.tags if tag in ("link", "img", "iframe") or "src" in attributes]
    assert all(not re.match(r"(\w+:|//)", link["href"]) for link in page.all("a"))


def test_plotly_is_inlined_once_and_cannot_upload(page, tmp_path):
    text = (tmp_path / "front.html").read_text(encoding="utf-8")
    assert text.count("* plotly.js v") == 1
    assert text.count('"showSendToCloud": false') == 2
    assert text.count("Plotly.newPlot(") >= 2


def test_trainings_have_a_section_of_their_own(front, trials, tmp_path):
    run = {device.device: trials for device in front.devices}
    text = write_report(tmp_path, front, run, RUN).read_text(encoding="utf-8")
    assert "<h2>Training</h2>" not in text
    curves = [Curve("supernet", (2.0, 1.0)), Curve("0a1b", (1.0, 0.5), 0.8412)]
    text = write_report(tmp_path, front, run, RUN, curves).read_text(encoding="utf-8")
    assert "<h2>Training</h2>" in text and "0a1b, validation 84.12 %" in text
    assert text.count("* plotly.js v") == 1 and text.count('"showSendToCloud": false') == 3


def test_names_of_users_are_escaped(page, tmp_path):
    text = (tmp_path / "front.html").read_text(encoding="utf-8")
    assert HOSTILE not in text
    assert "alert(1)" in text
    # PlotlyConfig, plotly.js and the figure of the first device, and the other's PlotlyConfig and figure.
    assert len(page.all("script")) <= 5


def test_tables_hold_every_finalist_with_its_numbers(page, device_front):
    text = "|".join(page.text)
    for candidate in (*device_front.candidates, *device_front.rejected):
        assert candidate.id in text
        interval = f"[{candidate.measured_ms_low:.3f} to {candidate.measured_ms_high:.3f}]"
        assert f"{candidate.measured_ms:.3f} {interval}" in text
        mark = "" if candidate.accurate_prediction else " |!"
        assert f"|{candidate.predicted_ms:.3f}{mark}|{candidate.measured_ms:.3f}" in text
        assert f"|{100 * candidate.val_accuracy:.2f} %|{100 * candidate.test_accuracy:.2f} %|" in text
    for rejected in device_front.rejected:
        assert rejected.reason in text
    assert "predicted ms" in text and "measured ms [90 % interval]" in text


def test_networks_are_linked_relatively(page, device_front):
    links = [link["href"] for link in page.all("a")]
    assert len(links) == 2 * (8 + 6)
    finalists = [*device_front.candidates, *device_front.rejected]
    assert links[:16:2] == [c.onnx.replace(" ", "%20") for c in finalists]
    assert links[1:16:2] == [c.certificate.replace(" ", "%20") for c in finalists]


def test_predictions_that_did_not_hold_are_marked(page, device_front):
    finalists = [*device_front.candidates, *device_front.rejected]
    off = [c for c in finalists if abs(c.measured_ms / c.predicted_ms - 1) > 0.05]
    assert 0 < len(off) < len(finalists)
    marked = [tag for tag in page.all("abbr") if "more than 5 %" in tag["title"]]
    # The second device has the same front, and no rejected finalists.
    assert len(marked) == len(off) + sum(c in device_front.candidates for c in off)


def test_state_of_the_device_is_told(page, device_front):
    text = "|".join(page.text)
    assert "Measured at 1.020 x the latency of when the table was built; a quiet host." in text
    assert all(value in text for value in device_front.fingerprint.values())


def test_family_stands_beside_the_front(front, trials, tmp_path):
    comparison = compare("the search", [Point(2.0, 0.9, 0.9)], [Point(1.0, 0.8, 0.8)], 0.1, 1000)
    devices = (front.devices[0].model_copy(update={"comparison": comparison}), front.devices[1])
    told = {device.device: trials for device in devices}
    page = write_report(tmp_path, front.model_copy(update={"devices": devices}), told, RUN).read_text()
    assert "the search beat the hand-made family by 10.0 points" in page and "hypervolume of their test" in page
    assert page.count("no comparison with the hand-made family") == 1


def test_link_cannot_become_a_script(front, trials, tmp_path):
    device = front.devices[0]
    bad = device.candidates[0].model_copy(update={"onnx": 'javascript:alert("1")'})
    front = front.model_copy(update={"devices": (device.model_copy(update={"candidates": (bad,)}),)})
    text = write_report(tmp_path, front, {device.device: trials}, RUN).read_text(encoding="utf-8")
    assert 'href="javascript%3Aalert%28%221%22%29"' in text


def test_quality_and_footer_show_the_run(page):
    text = "|".join(page.text)
    assert "rank correlation|0.9871" in text
    assert "reproduced|yes" in text
    assert f"{HOSTILE}|–" in text
    assert "parts|a: 1, b: 2, 3" in text
    assert "measure|812.3 s" in text
    assert "seed|3|torch|2.9.1" in text
    assert RUN["command"] in text


def test_one_png_per_device_and_no_leftovers(page, tmp_path):
    assert sorted(path.name for path in tmp_path.iterdir()) == ["front-2.png", "front.html", "front.png"]
    for name in ("front.png", "front-2.png"):
        with Image.open(tmp_path / name) as image:
            assert image.size == (1600, 1000)


def test_page_of_recorded_tables(recorded_device, trials, tmp_path):
    front = RecordedFront(
        space="nb201", input_shape=(3, 32, 32), classes=10, source=f"table:{HOSTILE}.csv#acc", source_sha256="1" * 64,
        devices=(recorded_device, recorded_device.model_copy(update={"device": HOSTILE, "ms_is": "predicted"})),
    )  # fmt: skip
    path = write_report(tmp_path, front, {device.device: trials for device in front.devices}, RUN)
    parser = _Page()
    parser.feed(path.read_text(encoding="utf-8"))
    text = "|".join(parser.text)
    assert "Front of nb201 by recorded tables" in text
    assert (
        f"Accuracies recorded in table:{HOSTILE}.csv#acc, SHA-256 111111111111; nothing was trained or measured here."
        in text
    )
    assert "budget 12 ms; recorded latencies from table:<b>.csv#ms, SHA-256 000000000000." in text
    first = recorded_device.candidates[0]
    assert f"1|{first.id}|{100 * first.recorded_accuracy:.2f} %|{first.ms:.3f}|" in text and first.architecture in text
    assert "id|recorded accuracy|recorded ms|" in text and "id|recorded accuracy|predicted ms|" in text
    assert "Every number is measured" not in text and not parser.all("a")
    assert sorted(found.name for found in tmp_path.iterdir()) == ["front-2.png", "front.html", "front.png"]
