"""What a search is told: the same names as flags, TOML keys and fields."""

import re
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from latency.device import Device
from nas.search.samplers import SamplerKind
from nas.training.oracle import OracleKind
from search_spaces.block import Shape
from search_spaces.errors import InputError, unknown
from search_spaces.fbnet import FBNetSpace
from search_spaces.fbnetv2 import FBNetV2Space
from search_spaces.nb201 import NB201Space
from search_spaces.space import SearchSpace

SPACES: dict[str, type[SearchSpace]] = {"fbnet": FBNetSpace, "fbnetv2": FBNetV2Space, "nb201": NB201Space}
"""The search spaces by name."""


class SearchConfig(BaseModel):
    """The settings of ``nas search``. Times are given in epochs or steps, latencies in ms, sizes in px."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: str
    out: Path
    space: str = "fbnet"
    device: tuple[str, ...] = Field(("cpu",), min_length=1)
    budget_ms: float | None = Field(None, gt=0, allow_inf_nan=False)
    trials: int = Field(100, ge=2)
    input: str | None = None
    oracle: OracleKind = "supernet"
    halving: bool = False
    sampler: SamplerKind = "gp"
    seed: int = Field(0, ge=0)
    finalists: int = Field(6, ge=1)
    supernet_steps: int = Field(2000, ge=1)
    proxy_epochs: int = Field(3, ge=1)
    final_epochs: int = Field(30, ge=1)
    rank_networks: int = Field(8, ge=0)
    table: Path | None = None
    accept_table: bool = False
    workers: int = Field(1, ge=1)
    ray: str | None = None

    def identity(self) -> dict[str, object]:
        """Return what makes this search the search it is; the rest may change when it is resumed."""
        free = {"out", "trials", "finalists", "workers", "ray", "table", "accept_table"}
        return {**self.model_dump(mode="json", exclude=free), "data": str(_place(self.data))}

    @field_validator("halving")
    @classmethod
    def _needs_training(cls, halving: bool, info: ValidationInfo) -> bool:
        if halving and info.data.get("oracle") != "train":
            raise PydanticCustomError("needs_training", "halving stops trainings early: it takes --oracle train")
        return halving

    @field_validator("device")
    @classmethod
    def _each_once(cls, device: tuple[str, ...]) -> tuple[str, ...]:
        names = tuple(Device.parse(name).name for name in device)
        if len(set(names)) < len(names):
            raise PydanticCustomError("repeated", "each device may be given once")
        return names

    @classmethod
    def checked(cls, **values: object) -> "SearchConfig":
        """Return the configuration.

        Raises:
            InputError: a value is out of range; the flag is named.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            flag = "--" + str(first["loc"][0]).replace("_", "-")
            text = first["msg"].removeprefix("Value error, ")
            raise InputError(f"{flag}: {text}, got {first['input']!r}") from None


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


def require_space(name: str) -> None:
    """Raise ``InputError`` unless there is a space of this name."""
    if name not in SPACES:
        raise unknown("space", name, SPACES)


def make_space(name: str, shape: Shape | None, classes: int, architecture: str | None = None) -> SearchSpace:
    """Return the space ``name`` for an input shape; the macro-architecture of ``architecture`` decides where it says.

    Raises:
        InputError: there is no such space, or it does not take this input.
    """
    require_space(name)
    kind = SPACES[name]
    macro = kind.home_of(architecture) if architecture else None
    if shape is None:
        shape = kind.default_shape(macro)
    return kind(shape, classes, macro)
