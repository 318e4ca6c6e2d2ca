"""Settings are checked once, every error names its flag, and the identity of a search is what decides its result."""

from pathlib import Path

import pytest

from nas.config import SPACES, SearchConfig, make_space, parse_input, parse_shape
from nas.training.recipe import FINAL, Recipe
from search_spaces.block import Shape
from search_spaces.errors import InputError
from search_spaces.fbnet import FBNetSpace

BASE = {"data": "digits", "out": Path("run")}


def test_defaults_are_valid() -> None:
    config = SearchConfig.checked(**BASE)
    assert (config.space, config.device, config.oracle, config.sampler) == ("fbnet", ("cpu",), "supernet", "gp")
    assert config.budget_ms is None and config.table is None


@pytest.mark.parametrize(("space", "oracle"), [("einspace", "train"), ("fbnet", "supernet")])
def test_candidates_are_trained_where_nothing_shares_weights(space: str, oracle: str) -> None:
    assert SearchConfig.checked(**BASE, space=space).oracle == oracle
    assert SearchConfig.checked(**BASE, space=space, time="9m").oracle == "auto"


@pytest.mark.parametrize(
    ("field", "value", "flag"),
    [
        ("budget_ms", 0, "--budget-ms"),
        ("budget_ms", -1.0, "--budget-ms"),
        ("budget_ms", float("nan"), "--budget-ms"),
        ("budget_ms", float("inf"), "--budget-ms"),
        ("budget_ms", "fast", "--budget-ms"),
        ("trials", 1, "--trials"),
        ("trials", 2.5, "--trials"),
        ("seed", -1, "--seed"),
        ("finalists", 0, "--finalists"),
        ("family", -1, "--family"),
        *(("time", text, "--time") for text in ("5 parrots", "", "90", "0s", "-5m", "1.5h", "30m1h", "1h 30m", "٣m")),
        *(("time", number, "--time") for number in (0, float("inf"))),
        ("supernet_steps", 0, "--supernet-steps"),
        ("proxy_epochs", 0, "--proxy-epochs"),
        ("final_epochs", 0, "--final-epochs"),
        ("label_smoothing", -0.1, "--label-smoothing"),
        ("label_smoothing", 1.0, "--label-smoothing"),
        ("mixup", -1.0, "--mixup"),
        ("mixup", float("inf"), "--mixup"),
        ("cutmix", -1.0, "--cutmix"),
        ("cutmix", float("inf"), "--cutmix"),
        ("ema", -0.5, "--ema"),
        ("ema", 1.0, "--ema"),
        ("distil", -0.1, "--distil"),
        ("distil", 1.5, "--distil"),
        ("rank_networks", -1, "--rank-networks"),
        ("workers", 0, "--workers"),
        ("oracle", "guess", "--oracle"),
        ("sampler", "best", "--sampler"),
        ("device", ("cpu", "cpu"), "--device"),
        ("device", ("cpu", "cpu:int8", "cpu:threads=1"), "--device"),
        ("device", ("cpu", "board"), "--device"),
        ("device", ("cpu:threads=0",), "--device"),
        ("device", (), "--device"),
        ("accept_table", "perhaps", "--accept-table"),
        ("halving", "perhaps", "--halving"),
        ("halving", True, "--halving"),
        ("colour", "red", "--colour"),
    ],
)
def test_value_out_of_range_names_its_flag(field: str, value: object, flag: str) -> None:
    with pytest.raises(InputError) as error:
        SearchConfig.checked(**{**BASE, field: value})
    text = str(error.value)
    assert text.startswith(f"{flag}: ") and repr(value) in text and "\n" not in text
    assert "Value error" not in text


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1800), ("2h", 7200), ("1h30m", 5400), ("1h0m5s", 3605), ("100m", 6000)]
)
def test_time(text: str, seconds: float) -> None:
    assert SearchConfig.checked(**{**BASE, "time": text}).time == seconds


def test_time_leaves_the_oracle_open_and_knows_what_was_given() -> None:
    assert SearchConfig.checked(**{**BASE, "time": "30m"}).oracle == "auto"
    planned = SearchConfig.checked(**{**BASE, "time": "30m", "oracle": "auto", "trials": 100})
    assert planned.given == {**BASE, "time": 1800, "trials": 100}  # the default, but given
    assert SearchConfig.checked(**{**BASE, "time": "30m", "oracle": "train"}).given["oracle"] == "train"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"oracle": "auto"}, "--oracle auto decides by the time that there is: give --time too"),
        ({"time": "30m", "from": Path("first")}, "--time: with --from"),
        ({"time": "30m", "sampler": "dnas", "budget_ms": 1}, "leave it or --sampler dnas out"),
        ({"time": "30m", "data": "", "oracle": "table:a.csv#b"}, "--time: a search on recorded tables takes seconds"),
        ({"time": "30m", "halving": True}, "--halving"),
        ({"time": "30m", "oracle": "blockwise"}, "--time plans no block-wise training: leave it or --oracle blockwise"),
    ],
)
def test_what_does_not_go_with_a_plan(given: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        SearchConfig.checked(**{**BASE, **given})


def test_devices_are_named_in_one_way() -> None:
    given = ("cpu:threads=1", "cpu:int8,threads=2", "openvino:fp32")
    config = SearchConfig.checked(**{**BASE, "device": given})
    assert config.device == ("cpu", "cpu:threads=2,int8", "openvino")
    assert SearchConfig.checked(**{**BASE, "device": config.device}) == config
    one, other = (SearchConfig.checked(**{**BASE, "device": (name,)}) for name in ("cpu", "cpu:threads=1"))
    assert one.identity() == other.identity()


def test_unknown_devices_are_told_by_their_nearest() -> None:
    with pytest.raises(InputError, match=r"^--device: unknown device 'cpuu'; did you mean 'cpu'\?, got \['cpuu'\]$"):
        SearchConfig.checked(**{**BASE, "device": ["cpuu"]})


@pytest.mark.parametrize(
    ("text", "expected"),
    [(None, None), ("64", 64), ("64x64", 64), ("3x64x64", (3, 64, 64)), ("1x8x12", (1, 8, 12)), ("1000", 1000)],
)
def test_parse_input(text: str | None, expected: Shape | int | None) -> None:
    assert parse_input(text) == expected


@pytest.mark.parametrize(
    "text", ["", "0", "64x", "x64", "-3", "3x0x64", "1x2x3x4", "64 x 64", "abc", "3,64,64", "64x32", "64X64", "٣"]
)
def test_what_is_no_input_shape(text: str) -> None:
    with pytest.raises(InputError, match="--input"):
        parse_input(text)
    with pytest.raises(InputError, match="--input"):
        parse_shape(text)


def test_parse_shape_assumes_colour() -> None:
    assert [parse_shape(text) for text in ("32", "32x32", "1x8x8")] == [(3, 32, 32), (3, 32, 32), (1, 8, 8)]


CHANGEABLE = {
    "out": Path("elsewhere"), "trials": 7, "finalists": 2, "family": 2, "workers": 3, "ray": "auto",
    "table": Path("t.json"), "accept_table": True,
}  # fmt: skip
DECISIVE = {
    "data": "other", "space": "other", "device": ("cpu:int8",), "budget_ms": 3.0, "input": "16", "oracle": "train",
    "sampler": "random", "start": ("resnet18",), "seed": 1, "time": 60, "supernet_steps": 5, "supernet_paths": "fair",
    "proxy_epochs": 5, "final_epochs": 5,
    "rank_networks": 0, "label_smoothing": 0.3, "mixup": 0.3, "cutmix": 0.3, "ema": 0.3, "distil": 0.3,
}  # fmt: skip


def test_identity_is_what_decides_the_result() -> None:
    assert CHANGEABLE.keys() | DECISIVE.keys() | {"halving", "from_run"} == set(SearchConfig.model_fields)
    identity = SearchConfig.checked(**BASE).identity()
    assert SearchConfig.checked(**{**BASE, **CHANGEABLE}).identity() == identity
    for field, value in DECISIVE.items():
        changed = SearchConfig.checked(**{**BASE, "oracle": "supernet", field: value}).identity()
        assert {key for key in identity if identity[key] != changed[key]} == {field}
    trained = SearchConfig.checked(**{**BASE, "oracle": "train"}).identity()
    assert SearchConfig.checked(**{**BASE, "oracle": "train", "halving": True}).identity() != trained
    assert SearchConfig.checked(**{**BASE, "from": Path("first")}).identity() == {
        **identity, "from": str(Path("first").absolute())
    }  # fmt: skip


def test_final_recipe_is_what_the_fields_say() -> None:
    assert SearchConfig.checked(**BASE).final == FINAL
    fields = {"label_smoothing": 0.1, "mixup": 0.2, "cutmix": 0.3, "ema": 0.4, "distil": 0.5}
    assert SearchConfig.checked(**BASE, final_epochs=7, **fields).final == Recipe(7, **fields)


def test_distillation_takes_a_supernet() -> None:
    with pytest.raises(
        InputError, match=r"^--distil 0\.5 needs a supernet to learn from, which --oracle train has not"
    ):
        SearchConfig.checked(**BASE, distil=0.5, oracle="train")
    assert SearchConfig.checked(**BASE, distil=0.5, oracle="train", sampler="fpnas", budget_ms=1).final.distil == 0.5


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"distil": 0.5}, "--distil 0.5 needs a supernet that knows labels to learn from: give --oracle supernet"),
        ({"sampler": "dnas", "budget_ms": 1}, "--sampler dnas learns from a supernet that knows labels: give --oracle"),
        ({"supernet_paths": "fair"}, "--supernet-paths fair: --oracle blockwise draws four paths a step; leave it out"),
        ({"halving": True}, "it takes --oracle train"),
    ],
)
def test_what_takes_labels_does_not_go_with_blockwise(given: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        SearchConfig.checked(**BASE, oracle="blockwise", **given)
    assert SearchConfig.checked(**BASE, oracle="blockwise").oracle == "blockwise"


def test_identity_of_data_is_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    one, other = (SearchConfig.checked(data=d, out=tmp_path).identity() for d in ("photos", str(tmp_path / "photos")))
    assert one == other


def test_identity_of_tables_is_their_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recorded = {"out": Path("run"), "oracle": "table:a.csv#acc", "device": ["table:b.csv#ms", "table:t.json"]}
    here = SearchConfig.checked(**recorded)
    assert here.recorded and not SearchConfig.checked(**BASE).recorded and here.data == ""
    there = {
        "oracle": f"table:{tmp_path}/a.csv#acc",
        "device": [f"table:{tmp_path}/b.csv#ms", f"table:{tmp_path}/t.json"],
    }
    assert SearchConfig.checked(**{**recorded, **there}).identity() == here.identity()
    for change in ({"oracle": "table:a.csv#other"}, {"device": ["table:b.csv#ms"]}, {"device": ["table:t.json"]}):
        assert SearchConfig.checked(**{**recorded, **change}).identity() != here.identity()


def test_make_space() -> None:
    assert set(SPACES) == {"fbnet", "fbnetv2", "hybrid", "nb201", "einspace"}
    space = make_space("fbnet", (1, 8, 8), 10)
    assert isinstance(space, FBNetSpace) and (space.name, space.classes) == ("fbnet/small-8", 10)
    assert make_space("fbnet", None, 1000, "fbnet_a").name == "fbnet/imagenet-1504"
    assert make_space("fbnet", None, 10).input_shape == (3, 224, 224)
    assert make_space("fbnet", None, 10, "fbnet/small-28:skip").input_shape == (3, 28, 28)
    assert make_space("fbnetv2", (1, 28, 28), 10).name == "fbnetv2/small-28"
    assert make_space("fbnetv2", None, 1000, "fbnetv2_f1").input_shape == (3, 128, 128)
    assert make_space("hybrid", (3, 64, 64), 10).name == "hybrid/small-64"
    assert make_space("hybrid/fabric-28", (1, 28, 28), 10).name == "hybrid/fabric-28"
    assert make_space("hybrid/fabric-64", None, 10).input_shape == (3, 64, 64)
    assert make_space("nb201", None, 10, "resnet").input_shape == (3, 32, 32)
    assert make_space("nb201", (1, 8, 8), 10, "nb201:none").input_shape == (1, 8, 8)


def test_unknown_spaces_and_sizes() -> None:
    with pytest.raises(InputError, match="unknown space 'fbnett'; did you mean 'fbnet'"):
        make_space("fbnett", None, 10)
    with pytest.raises(InputError, match="unknown space"):
        make_space("ofa", (3, 32, 32), 10)
    with pytest.raises(InputError, match="unknown space 'hybrid/fabrik-28'; did you mean 'hybrid/fabric-28'"):
        make_space("hybrid/fabrik-28", (3, 28, 28), 10)
    with pytest.raises(InputError, match="unknown space 'nb201/small-28'; did you mean"):
        make_space("nb201/small-28", (3, 32, 32), 10)
    with pytest.raises(InputError, match="it takes 8 to 4096 px"):
        make_space("fbnet", (3, 4, 4), 10)
    with pytest.raises(InputError, match="multiples of 4"):
        make_space("nb201", (3, 30, 30), 10)
    with pytest.raises(InputError, match="macro-architecture"):
        make_space("fbnet", None, 10, "fbnet/small-9:skip")


def test_halving_takes_training() -> None:
    with pytest.raises(
        InputError, match=r"^--halving: halving stops trainings early: it takes --oracle train, got True$"
    ):
        SearchConfig.checked(**{**BASE, "oracle": "supernet", "halving": True})
    assert SearchConfig.checked(**{**BASE, "oracle": "train", "halving": True}).halving
