"""What a search is told: the same names as flags, TOML keys and fields."""

import re
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from latency.device import Device
from nas.search.samplers import LEARNED, SamplerKind
from nas.training.oracle import OracleKind
from nas.training.paths import PathKind
from nas.training.recipe import FINAL, Recipe
from nas.training.recorded import PREFIX, Source
from search_spaces.block import Shape
from search_spaces.einspace.space import EinSpace
from search_spaces.errors import InputError, unknown
from search_spaces.fbnet import FBNetSpace
from search_spaces.fbnetv2 import FBNetV2Space
from search_spaces.hybrid import HybridSpace
from search_spaces.nb201 import NB201Space
from search_spaces.space import SearchSpace

AUTO = "auto"
"""The oracle that the plan of ``--time`` decides."""
_UNITS_S = {"h": 3600, "m": 60, "s": 1}

SPACES: dict[str, type[SearchSpace]] = {
    "fbnet": FBNetSpace,
    "fbnetv2": FBNetV2Space,
    "hybrid": HybridSpace,
    "nb201": NB201Space,
    "einspace": EinSpace,
}
"""The search spaces by name."""


class SearchConfig(BaseModel):
    """The settings of ``nas search``. Times are given in epochs or steps, ``time`` in s, latencies in ms, sizes in px.

    ``oracle`` and ``device`` may name recorded tables (see ``Source``); ``data`` is empty then. ``from_run``, a flag
    and key called ``from``, is an earlier run whose ratings are taken over; ``trials`` are new candidates.
    ``start`` are named networks that are rated first. ``oracle`` is ``train`` where networks of the space share no
    weights and none is given. With ``time`` a plan decides what is not given (``given``).
    """

    model_config = ConfigDict(extra="forbid", frozen=True, serialize_by_alias=True)

    data: str = ""
    out: Path
    from_run: Path | None = Field(None, alias="from")
    space: str = "fbnet"
    device: tuple[str, ...] = Field(("cpu",), min_length=1)
    budget_ms: float | None = Field(None, gt=0, allow_inf_nan=False)
    time: float | None = Field(None, gt=0, allow_inf_nan=False)
    trials: int = Field(100, ge=0)
    input: str | None = None
    oracle: str = "supernet"
    halving: bool = False
    sampler: SamplerKind = "gp"
    start: tuple[str, ...] | None = None
    seed: int = Field(0, ge=0)
    finalists: int = Field(6, ge=1)
    family: int = Field(3, ge=0)
    supernet_steps: int = Field(2000, ge=1)
    supernet_paths: PathKind = "single"
    proxy_epochs: int = Field(3, ge=1)
    final_epochs: int = Field(FINAL.epochs, ge=1)
    label_smoothing: float = Field(FINAL.label_smoothing, ge=0, lt=1)
    mixup: float = Field(FINAL.mixup, ge=0, allow_inf_nan=False)
    cutmix: float = Field(FINAL.cutmix, ge=0, allow_inf_nan=False)
    ema: float = Field(FINAL.ema, ge=0, lt=1)
    distil: float = Field(FINAL.distil, ge=0, le=1)
    rank_networks: int = Field(16, ge=0)
    table: Path | None = None
    accept_table: bool = False
    workers: int = Field(1, ge=1)
    ray: str | None = None

    def identity(self) -> dict[str, object]:
        """Return what makes this search the search it is; the rest may change when it is resumed."""
        free = {"out", "trials", "finalists", "family", "workers", "ray", "table", "accept_table"}
        places = {
            "from": str(self.from_run.absolute()) if self.from_run else None,
            "data": str(_place(self.data)) if self.data else "",
            "oracle": _placed(self.oracle),
            "device": [_placed(device) for device in self.device],
        }
        return {**self.model_dump(mode="json", exclude=free), **places}

    @property
    def recorded(self) -> bool:
        """Whether a search on recorded tables is meant: nothing is trained or measured."""
        return is_table(self.oracle)

    @property
    def trains_supernet(self) -> bool:
        """Whether a supernet is trained on labels: to rate by, or for a sampler that learns from it."""
        return self.oracle == "supernet" or self.sampler in LEARNED

    @property
    def final(self) -> Recipe:
        """The recipe of the finalists."""
        return Recipe(
            self.final_epochs, label_smoothing=self.label_smoothing, mixup=self.mixup, cutmix=self.cutmix, ema=self.ema,
            distil=self.distil,
        )  # fmt: skip

    @property
    def given(self) -> dict[str, Any]:
        """The settings that were given, which no plan changes; ``auto`` gives none."""
        given = {name: getattr(self, name) for name in self.model_fields_set}
        return {name: value for name, value in given.items() if value != AUTO}

    @field_validator("time", mode="before")
    @classmethod
    def _seconds(cls, text: object) -> object:
        if not isinstance(text, str):
            return text
        parts = re.fullmatch(r"(\d+h)?(\d+m)?(\d+s)?", text, re.ASCII)
        seconds = sum(int(part[:-1]) * _UNITS_S[part[-1]] for part in parts.groups() if part) if parts else 0
        if not seconds:
            raise PydanticCustomError("no_time", "give a time such as 90s, 30m, 2h or 1h30m")
        return seconds

    @field_validator("start", mode="before")
    @classmethod
    def _names(cls, listed: object) -> object:
        if not isinstance(listed, list | tuple):
            return listed
        return tuple(dict.fromkeys(name for each in listed for name in str(each).split(",")))

    @field_validator("oracle")
    @classmethod
    def _known_oracle(cls, oracle: str) -> str:
        kinds = (*get_args(OracleKind), AUTO)
        if not is_table(oracle) and oracle not in kinds:
            raise PydanticCustomError("unknown", f"give {', '.join(kinds)} or {PREFIX}FILE#COLUMN")
        return oracle

    @field_validator("trials")
    @classmethod
    def _some_trials(cls, trials: int, info: ValidationInfo) -> int:
        if trials < 2 and info.data.get("from_run") is None:
            raise PydanticCustomError("too_few", "give 2 or more, unless --from names a run with candidates")
        return trials

    @field_validator("halving")
    @classmethod
    def _needs_training(cls, halving: bool, info: ValidationInfo) -> bool:
        if halving and info.data.get("oracle") != "train":
            raise PydanticCustomError("needs_training", "halving stops trainings early: it takes --oracle train")
        return halving

    @field_validator("device")
    @classmethod
    def _each_once(cls, device: tuple[str, ...]) -> tuple[str, ...]:
        names = tuple(name if is_table(name) else Device.parse(name).name for name in device)
        if len(set(names)) < len(names):
            raise PydanticCustomError("repeated", "each device may be given once")
        return names

    @classmethod
    def checked(cls, **values: object) -> "SearchConfig":
        """Return the configuration.

        Raises:
            InputError: a value is out of range, or two do not go together; the flags are named.
        """
        if values.get("time") is not None:
            values.setdefault("oracle", AUTO)
        elif _endless(str(values.get("space", ""))):
            values.setdefault("oracle", "train")
        try:
            config = cls.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            flag = "--" + str(first["loc"][0]).replace("_", "-")
            text = first["msg"].removeprefix("Value error, ")
            raise InputError(f"{flag}: {text}, got {first['input']!r}") from None
        config._require_consistent()
        return config

    def _require_consistent(self) -> None:
        if self.from_run is not None and self.sampler in LEARNED:
            raise InputError(
                f"--sampler {self.sampler} trains for each latency anew, which --from does without: leave --from out, "
                "or give --sampler gp"
            )
        self._require_plannable()
        if _endless(self.space):
            self._require_nothing_shared()
        if self.oracle == "blockwise":
            self._require_blockwise()
        tables = [device for device in self.device if is_table(device)]
        if not self.recorded:
            if tables:
                raise InputError(f"--device {tables[0]} is recorded: give --oracle {PREFIX}FILE#COLUMN too")
            if not self.data:
                raise InputError(f"--data is missing: images to train on, unless --oracle is {PREFIX}FILE#COLUMN")
            if self.distil and self.oracle == "train" and not self.trains_supernet:
                raise InputError(
                    f"--distil {self.distil:g} needs a supernet to learn from, which --oracle train has not"
                )
            return
        for flag, given in (("data", self.data), ("input", self.input), ("table", self.table)):
            if given:
                raise InputError(f"--{flag} {given}: a search on recorded tables takes none; leave it out")
        if self.sampler in LEARNED:
            raise InputError(f"--sampler {self.sampler} trains a supernet, which --oracle {self.oracle} does without")
        for device in self.device:
            if device not in tables:
                raise InputError(
                    f"--device {device} is measured, --oracle {self.oracle} recorded: give --device "
                    f"{PREFIX}FILE#COLUMN, or {PREFIX}FILE.json of a table that `nas table` made"
                )
        for text in (self.oracle, *tables):
            Source.parse(text)

    def _require_nothing_shared(self) -> None:
        for flag, given, good, bad in (
            ("--sampler", self.sampler, "gp", [*LEARNED]),
            ("--oracle", self.oracle, "train", ["supernet", "blockwise"]),
        ):
            if given in bad:
                raise InputError(
                    f"{flag} {given}: networks of {self.space} have no layers in common to share weights; "
                    f"give {flag} {good}"
                )

    def _require_blockwise(self) -> None:
        if self.sampler in LEARNED:
            raise InputError(
                f"--sampler {self.sampler} learns from a supernet that knows labels: give --oracle supernet"
            )
        if self.distil:
            raise InputError(
                f"--distil {self.distil:g} needs a supernet that knows labels to learn from: give --oracle supernet"
            )
        if self.supernet_paths != "single":
            raise InputError(
                f"--supernet-paths {self.supernet_paths}: --oracle blockwise draws four paths a step; leave it out"
            )

    def _require_plannable(self) -> None:
        if self.time is None:
            if self.oracle == AUTO:
                raise InputError(f"--oracle {AUTO} decides by the time that there is: give --time too")
            return
        if self.from_run is not None:
            raise InputError("--time: with --from, which takes ratings over, nothing is left to plan; leave it out")
        if self.recorded:
            raise InputError("--time: a search on recorded tables takes seconds; leave it out")
        if self.oracle == "blockwise":
            raise InputError("--time plans no block-wise training: leave it or --oracle blockwise out")
        if self.sampler in LEARNED:
            raise InputError(f"--time plans no learned distribution: leave it or --sampler {self.sampler} out")


def _endless(space: str) -> bool:
    """Tell whether networks of the space of this name have no positions in common: nothing shares weights there."""
    kind = SPACES.get(space.partition("/")[0])
    return kind is not None and kind.endless


def is_table(text: str) -> bool:
    """Tell whether a text names a recorded table."""
    return text.startswith(PREFIX)


def _placed(text: str) -> str:
    return Source.parse(text).text if is_table(text) else text


def _place(data: str) -> Path | str:
    return Path(data).absolute() if Path(data).exists() else data


def parse_input(text: str | None) -> Shape | int | None:
    """Return the shape of ``--input``: ``64`` or ``64x64`` (px; channels as in the data) or ``3x64x64``.

    Raises:
        InputError: the text is no shape.
    """
    if text is None:
        return None
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*){0,2}", text):
        raise InputError(f"--input {text!r} is no shape; give 64, 64x64 or 3x64x64")
    sides = [int(side) for side in text.split("x")]
    if len(sides) == 3:
        return sides[0], sides[1], sides[2]
    if len(sides) == 2 and sides[0] != sides[1]:
        raise InputError(f"--input {text!r}: give the channels too, as in 3x{text}")
    return sides[0]


def parse_shape(text: str) -> Shape:
    """Return a whole shape (C, H, W) of ``--input``; RGB where the channels are left out.

    Raises:
        InputError: the text is no shape.
    """
    shape = parse_input(text)
    return shape if isinstance(shape, tuple) else (3, int(shape or 0), int(shape or 0))


def require_space(name: str) -> tuple[type[SearchSpace], str | None]:
    """Return the space of a name, and the macro-architecture that stands behind it as in ``hybrid/fabric-28``.

    Raises:
        InputError: there is no such space.
    """
    family, _, macro = name.partition("/")
    known = [f"{each}/{macro}" for each, kind in SPACES.items() for macro in kind.macros() if macro]
    if family not in SPACES or (macro and name not in known):
        raise unknown("space", name, [*SPACES, *known] if macro else SPACES)
    return SPACES[family], macro or None


def make_space(name: str, shape: Shape | None, classes: int, architecture: str | None = None) -> SearchSpace:
    """Return the space ``name`` for an input shape, in the macro-architecture that ``name`` or ``architecture`` says.

    Raises:
        InputError: there is no such space, or it does not take this input.
    """
    kind, macro = require_space(name)
    if architecture and not macro:
        macro = kind.home_of(architecture)
    if shape is None:
        shape = kind.default_shape(macro)
    return kind(shape, classes, macro)
