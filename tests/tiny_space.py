"""A small FBNetV2 space, few enough networks to count, with all that makes widths awkward.

Residuals where some widths meet, skips that carry a width on, expansions that leave the first convolution out.
"""

from typing import Any

import numpy as np
from fakes import made_up_table

from latency.table import LatencyTable
from search_spaces.fbnetv2 import FBNetV2Space
from search_spaces.space import SearchSpace


class TinySpace(FBNetV2Space):
    """Two resolutions and three layers."""

    WIDE = (24, 32)

    def __init__(self) -> None:
        super().__init__((1, 12, 12), 10, "tiny")

    @classmethod
    def _macro(cls, name: str) -> dict[str, Any]:
        return {
            "resolutions": [0.67, 1],
            "stem": [16, 1],
            "operators": ["k3", "k5sh", "skip"],
            "head": [3, 32],
            "stages": [
                {"layers": 1, "stride": 2, "channels": [16, 24], "expansions": [1, 3]},
                {"layers": 2, "stride": 1, "channels": list(cls.WIDE), "expansions": [1, 2]},
            ],
        }


def rough_table(space: SearchSpace) -> LatencyTable:
    """Return a table in which nothing adds up by itself: layouts switch, borders cost, blocks vary."""
    table, rng = made_up_table(space), np.random.default_rng(0)
    blocks = {
        key: entry.model_copy(
            update={
                "cold_ms": entry.cold_ms * rng.uniform(0.5, 2),
                "plain_start": bool(rng.integers(2)),
                "plain_end": bool(rng.integers(2)),
            }
        )
        for key, entry in table.blocks.items()
    }
    calibration = table.calibration.model_copy(update={"switch_share": 0.4, "block_ms": 0.001})
    return table.model_copy(update={"blocks": blocks, "border_ms_per_mib": 0.5, "calibration": calibration})
