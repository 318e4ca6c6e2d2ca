"""How well a table fitted to a few timings predicts all other networks of NAS-Bench-201, beside simpler ways.

Five devices were timed by others (HELP, NeurIPS 2021). Run: .venv/bin/python -P tests/benchmarks/fitted_latency.py
[--draws 10] [--timings 25 50 100 200]
"""

import argparse
import csv
import gzip
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sklearn.linear_model import RidgeCV

from latency.fit import FittedTable, fit_timings
from search_spaces.architecture import Architecture
from search_spaces.block import Block
from search_spaces.nb201 import OPERATIONS, NB201Space

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "nas"
SPACE = NB201Space((3, 32, 32), 10)


def read(name: str) -> list[dict[str, str]]:
    """Return the rows of a table."""
    with gzip.open(DATA / name, "rt") as file:
        return list(csv.DictReader(file))


class Networks:
    """The networks that were timed, as every way to predict needs them."""

    def __init__(self, architectures: Sequence[Architecture]) -> None:
        self.architectures = architectures
        self.blocks = [SPACE.blocks(a) for a in architectures]
        self.pruned = [SPACE.blocks(SPACE.pruned(a)) for a in architectures]
        self.macs = np.array([float(SPACE.macs(a)) for a in architectures])
        self.one_hot = np.array([[float(o == k) for _, o in a.decisions for k in OPERATIONS] for a in architectures])

    def fitted(self, known: NDArray, ms: NDArray) -> NDArray:
        """Predict all by a fitted table."""
        table = fit_timings(SPACE, [self.architectures[i] for i in known], ms[known].tolist(), "device")
        return predict(table, self.pruned if table.pruned else self.blocks)

    def by_macs(self, known: NDArray, ms: NDArray) -> NDArray:
        """Predict all by a line through MACs."""
        return np.asarray(np.polyval(np.polyfit(self.macs[known], ms[known], 1), self.macs))

    def by_one_hot(self, known: NDArray, ms: NDArray) -> NDArray:
        """Predict all by ridge regression on the operation of each edge."""
        ridge = RidgeCV(10.0 ** np.arange(-3, 4)).fit(self.one_hot[known], ms[known])
        return np.asarray(ridge.predict(self.one_hot))

    def by_mean(self, known: NDArray, ms: NDArray) -> NDArray:
        """Predict the mean for all."""
        return np.full(len(ms), ms[known].mean())


def predict(table: FittedTable, networks: Sequence[Sequence[Block]]) -> NDArray:
    """Return what a table predicts for lists of blocks (ms)."""
    return np.array([table.predict_ms(blocks) for blocks in networks])


def score(predicted: NDArray, ms: NDArray, known: NDArray) -> tuple[float, float]:
    """Return Spearman's rank correlation on the networks that were not known, and the share (%) within 10 %."""
    others = np.setdiff1d(np.arange(len(ms)), known)
    predicted, ms = predicted[others], ms[others]
    order = 0.0 if np.ptp(predicted) == 0 else float(spearmanr(predicted, ms).statistic)
    return order, 100 * float(np.mean(np.abs(predicted / ms - 1) <= 0.1))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--timings", type=int, nargs="+", default=[25, 50, 100, 200])
    options = parser.parse_args()
    texts = {row["idx"]: row["arch"] for row in read("nb201_accuracy.csv.gz")}
    rows = read("nb201_latency_ms.csv.gz")
    networks = Networks([SPACE.as_written(texts[row["idx"]]) for row in rows])
    ways = {
        "fitted": networks.fitted, "MACs line": networks.by_macs, "one-hot ridge": networks.by_one_hot,
        "mean": networks.by_mean,
    }  # fmt: skip
    print(f"{len(rows)} networks, median of {options.draws} draws: Spearman (lowest), share within 10 %")
    print(f"{'device':12}{'timings':>8}" + "".join(f"{way:>24}" for way in ways))
    for device in (name for name in rows[0] if name != "idx"):
        ms = np.array([float(row[device]) for row in rows])
        for count in options.timings:
            line = f"{device:12}{count:>8}"
            draws = [np.random.default_rng(d).choice(len(ms), count, replace=False) for d in range(options.draws)]
            for way in ways.values():
                order, near = np.array([score(way(known, ms), ms, known) for known in draws]).T
                line += f"{np.median(order):>10.3f} ({order.min():.3f}){np.median(near):>4.0f} %"
            print(line, flush=True)


if __name__ == "__main__":
    main()
