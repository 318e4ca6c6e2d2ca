import html
import math

import pandas as pd
import pytest
from PIL import Image

from dashboards.figures import curves_figure, front_figure, front_png
from dashboards.picture import axis_range, picture_of, staircase
from nas.delivery.curves import Curve
from nas.delivery.front import DeviceFront

CURVES = [Curve("supernet", (2.0, 1.5, 1.25, 1.0)), Curve("0a1b", (1.0, 0.5), 0.8412), Curve("<b>", (1.0, math.nan))]


def _named(figure, start):
    return next(trace for trace in figure.data if trace.name.startswith(start))


def test_curves_show_every_epoch_over_the_share_done():
    figure = curves_figure(CURVES)
    assert [trace.name for trace in figure.data] == ["supernet", "0a1b, validation 84.12 %", "&lt;b&gt;"]
    assert [list(trace.x) for trace in figure.data] == [[25, 50, 75, 100], [50, 100], [50, 100]]
    assert [list(trace.y) for trace in figure.data[:2]] == [[2.0, 1.5, 1.25, 1.0], [1.0, 0.5]]
    assert figure.data[1].hovertext == ("epoch 1 of 2: 1", "epoch 2 of 2: 0.5")


def test_staircase_goes_right_then_up():
    assert staircase([(1.0, 60.0), (2.0, 70.0), (4.0, 75.0)]) == [
        (1.0, 60.0), (2.0, 60.0), (2.0, 70.0), (4.0, 70.0), (4.0, 75.0),
    ]  # fmt: skip
    assert staircase([(1.0, 60.0)]) == [(1.0, 60.0)]
    assert staircase([]) == []


def test_axis_range_leaves_far_outliers_out_but_never_what_must_show():
    cloud = [70.0 + i / 10 for i in range(50)] + [10.0]
    low, high = axis_range(cloud, [])
    assert 68 < low < 70 and 74.9 < high < 76
    low, _ = axis_range(cloud, [30.0])
    assert 25 < low < 30


@pytest.mark.parametrize("value", [5.0, 0.0])
def test_axis_range_of_one_value_is_not_empty(value):
    low, high = axis_range([value], [])
    assert low < value < high


def test_axis_range_of_nothing():
    assert axis_range([], []) == (0.0, 1.0)


def test_every_evaluated_trial_is_drawn_once_and_no_other(trials, device_front):
    figure = front_figure(trials, device_front)
    evaluated = trials[trials["accuracy"].notna()]
    assert len(evaluated) == 88
    for origin in ("search", "random", "baseline"):
        expected = evaluated[evaluated["origin"] == origin]
        trace = _named(figure, origin)
        assert trace.name.endswith(f"predicted ({len(expected)})")
        assert list(trace.x) == pytest.approx(expected["ms"].tolist())
        assert list(trace.y) == pytest.approx((100 * expected["accuracy"]).tolist())
        assert not any(math.isnan(value) for value in (*trace.x, *trace.y))
    assert "Not drawn: 12 over the budget and never evaluated, 1 outside" in figure.layout.title.text


def test_finalists_are_drawn_where_they_were_measured(trials, device_front):
    figure = front_figure(trials, device_front)
    front = [c for c in device_front.candidates if c.origin != "baseline"]
    trace = _named(figure, "front, measured (5)")
    assert list(trace.x) == [c.measured_ms for c in front]
    assert list(trace.y) == pytest.approx([100 * c.val_accuracy for c in front])
    assert list(trace.error_x.array) == pytest.approx([0.25] * 5)
    assert list(trace.error_x.arrayminus) == pytest.approx([0.15] * 5)
    baseline = _named(figure, "front, baseline, measured (1)")
    assert baseline.marker.symbol == "square"
    assert sorted([*trace.text, *baseline.text]) == ["1", "2", "3", "4", "5", "6"]
    assert len(_named(figure, "rejected, measured (2)").x) == 2


def test_staircase_joins_the_measured_front(trials, device_front):
    trace = _named(front_figure(trials, device_front), "staircase")
    front = device_front.candidates
    assert list(trace.x[::2]) == [c.measured_ms for c in front]
    assert list(trace.y[::2]) == pytest.approx([100 * c.val_accuracy for c in front])
    assert list(trace.x[1::2]) == [c.measured_ms for c in front[1:]]
    assert list(trace.y[1::2]) == pytest.approx([100 * c.val_accuracy for c in front[:-1]])


def test_connectors_run_from_prediction_to_measurement(trials, device_front):
    trace = _named(front_figure(trials, device_front), "from predicted to measured")
    first = device_front.candidates[0]
    assert list(trace.x[:3]) == [first.predicted_ms, first.measured_ms, None]
    assert list(trace.y[:2]) == pytest.approx([100 * first.search_accuracy, 100 * first.val_accuracy])
    assert len(trace.x) == 3 * 8


def test_networks_that_were_not_rated_have_no_prediction(trials, device_front):
    first, *others = device_front.candidates
    unrated = first.model_copy(update={"search_accuracy": None})
    front = device_front.model_copy(update={"candidates": (unrated, *others)})
    figure = front_figure(trials, front)
    trace = _named(figure, "from predicted")
    assert len(trace.x) == 3 * (len(others) + len(front.rejected))
    hovers = [text for marks in figure.data for text in marks.hovertext or ()]
    assert sum("not rated by the search" in text for text in hovers) == 1


def test_every_legend_entry_says_predicted_or_measured(trials, device_front):
    shown = [trace for trace in front_figure(trials, device_front).data if trace.showlegend is not False]
    assert len(shown) == 7
    assert all("predicted" in trace.name or "measured" in trace.name for trace in shown)


def test_hover_shows_the_architecture_in_short_lines_and_labels_its_numbers(trials, device_front):
    figure = front_figure(trials, device_front)
    search = trials[(trials["origin"] == "search") & trials["accuracy"].notna()]
    for text, architecture in zip(_named(figure, "search").hovertext, search["architecture"], strict=True):
        assert architecture in html.unescape(text.replace("<br>", ""))
        assert max(len(html.unescape(line)) for line in text.split("<br>")) <= 70
        assert "predicted: " in text and "measured: " in text and "MACs" in text
    first = device_front.candidates[0]
    assert f"measured: {first.measured_ms:.3f} ms [" in _named(figure, "front, measured").hovertext[0]


def test_hover_and_title_escape_what_users_named(trials, device_front):
    trials["architecture"] = "<img src=x>"
    figure = front_figure(trials, device_front)
    assert "&lt;img src=x&gt;" in _named(figure, "search").hovertext[0]
    assert "&lt;1 thread&gt;" in figure.layout.title.text


def test_budget_is_a_dashed_line_only_if_there_is_one(trials, device_front):
    (line,) = front_figure(trials, device_front).layout.shapes
    assert line.x0 == line.x1 == 12.0 and line.line.dash == "dash"
    free = front_figure(trials, device_front.model_copy(update={"budget_ms": None}))
    assert not free.layout.shapes
    assert "Not drawn: 12 never evaluated" in free.layout.title.text


def test_view_keeps_all_finalists_and_leaves_the_chance_level_out(trials, device_front):
    low, high = front_figure(trials, device_front).layout.yaxis.range
    assert 10 < low < min(100 * c.search_accuracy for c in device_front.candidates)
    assert high > max(100 * c.val_accuracy for c in device_front.candidates)


def test_unknown_origin_is_not_dropped_silently(trials, device_front):
    trials.loc[50, "origin"] = "elsewhere"
    with pytest.raises(ValueError, match="elsewhere"):
        picture_of(trials, device_front)


def test_png_has_the_promised_size(trials, device_front, tmp_path):
    front_png(trials, device_front, tmp_path / "front.png")
    with Image.open(tmp_path / "front.png") as image:
        image.load()
        assert (image.format, image.size) == ("PNG", (1600, 1000))
        assert len(image.convert("RGB").getcolors(maxcolors=1 << 24)) > 50


def test_nothing_evaluated_and_no_finalist_still_draws(trials, tmp_path):
    trials["accuracy"] = float("nan")
    empty = DeviceFront(
        device="cpu", fingerprint={}, budget_ms=None, drift=1.0, host="", certificates={}, candidates=(), rejected=()
    )
    assert len(front_figure(trials, empty).data) == 0
    front_png(pd.DataFrame(trials.iloc[:0]), empty, tmp_path / "front.png")
    assert (tmp_path / "front.png").stat().st_size > 1000


def test_scores_are_not_drawn_as_accuracies(trials, device_front):
    trials["score"], trials["accuracy"] = trials["accuracy"], float("nan")
    scored = [c.model_copy(update={"search_accuracy": None, "search_score": 0.97}) for c in device_front.candidates]
    figure = front_figure(trials, device_front.model_copy(update={"candidates": tuple(scored), "rejected": ()}))
    assert not any("predicted" in str(trace.name) for trace in figure.data)
    assert "12 over the budget and never evaluated" in figure.layout.title.text
    assert "88 rated by scores, which are no accuracies" in figure.layout.title.text
    hover = _named(figure, "front, measured (5)").hovertext
    assert all("ms, of score 0.9700, which is no accuracy" in text for text in hover)


def test_recorded_front_says_so_everywhere(trials, recorded_device):
    figure = front_figure(trials, recorded_device)
    axes = figure.layout.xaxis.title.text, figure.layout.yaxis.title.text
    assert axes == ("recorded latency (ms)", "recorded accuracy (%)")
    title = figure.layout.title.text
    assert "Accuracies and latencies are recorded: nothing was trained or measured here." in title
    assert "12 over the budget and never evaluated, 1 outside this view" in title
    counts = trials[trials["accuracy"].notna()]["origin"].value_counts()
    assert [trace.name for trace in figure.data] == [
        f"search, looked up ({counts['search']})", f"random, looked up ({counts['random']})",
        f"baseline family, looked up ({counts['baseline']})", "staircase", "front (4)", "front, baseline (1)",
    ]  # fmt: skip
    for trace in figure.data:
        for text in trace.hovertext or ():
            assert "recorded: " in text and "predicted" not in text and "measured" not in text


def test_recorded_front_is_drawn_where_it_is(trials, recorded_device, tmp_path):
    figure = front_figure(trials, recorded_device)
    front, baseline = _named(figure, "front (4)"), _named(figure, "front, baseline")
    second = recorded_device.candidates[1]
    assert list(baseline.x) == [second.ms] and list(baseline.y) == pytest.approx([100 * second.recorded_accuracy])
    assert list(front.x) == [c.ms for c in recorded_device.candidates if c is not second]
    assert list(front.text) == ["1", "3", "4", "5"] and list(baseline.text) == ["2"]
    front_png(trials, recorded_device, tmp_path / "front.png")
    with Image.open(tmp_path / "front.png") as image:
        assert image.size == (1600, 1000)


def test_predicted_latency_beside_recorded_accuracy(trials, recorded_device):
    figure = front_figure(trials, recorded_device.model_copy(update={"ms_is": "predicted"}))
    assert figure.layout.xaxis.title.text == "predicted latency (ms)"
    assert "Accuracies are recorded, latencies predicted: nothing" in figure.layout.title.text
    assert "<br>predicted: " in _named(figure, "front (4)").hovertext[0]
