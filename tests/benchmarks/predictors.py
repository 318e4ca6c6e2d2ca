"""How well accuracy is predicted from few trained networks: NAS-Bench-201's recorded accuracies.

Run: .venv/bin/python -P tests/benchmarks/predictors.py FOLDER [--draws 10] [--zero-cost PARQUET_OR_NPZ --networks 400]
FOLDER holds nb201_accuracy.csv.gz. Prints Kendall's tau on 3,000 other networks (mean over the draws, lowest), and
the share of them inside the 90 % interval. --zero-cost adds naswot and synflow as features: they are computed for a
sample of canonical cells on 64 images, in about a second each, and tau is then that on the rest of the sample.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestRegressor
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from nas.search.executor import one_thread
from nas.training.data import load_dataset, to_tensor
from nas.training.recorded import Source, accuracies, read_rows
from predictors.features import feature_matrix
from predictors.gp import AccuracyGP
from predictors.pretrained import StatisticsEmbedding
from predictors.quality import PREDICTORS, kendall_tau
from predictors.wl import COLUMNS, wl_features
from predictors.zero_cost import naswot, synflow
from search_spaces.architecture import Architecture
from search_spaces.nb201 import OPERATIONS, NB201Space

SETS = ("cifar10", "cifar100", "imagenet16_120")
OBSERVED = (25, 50, 100)
UNSEEN = 3000
IMAGES = 64
SPACE = NB201Space((3, 32, 32), 10)

Way = tuple[str, Callable[[], object], NDArray]


def one_hot(architectures: Sequence[Architecture]) -> NDArray:
    """Return what a cell looks like without any knowledge of cells."""
    return np.array([[float(o == each) for _, o in a.decisions for each in OPERATIONS] for a in architectures])


def plain_gp() -> object:
    """Return scikit-learn's Gaussian process on accuracies as they are."""
    kernel = ConstantKernel() * Matern(nu=2.5) + WhiteKernel()
    return make_pipeline(StandardScaler(), GaussianProcessRegressor(kernel, normalize_y=True))


def pretrained(plain: NDArray, X: NDArray) -> NDArray:
    """Return an embedding of the decisions that has learned the free statistics of 2,000 random cells."""
    some = np.random.default_rng(0).permutation(len(X))[:2000]
    return StatisticsEmbedding().fit(plain[some], X[some]).transform(plain)


def show(name: str, way: Way, truth: dict[str, NDArray], draws: int) -> None:
    """Print a row: tau and coverage of a way to predict, per set and number of observations."""
    _, make, X = way
    cells = []
    for y in truth.values():
        for count in OBSERVED:
            taus, inside = [], []
            for seed in range(draws):
                order = np.random.default_rng(seed).permutation(len(y))
                seen, unseen = order[:count], order[count : count + UNSEEN]
                model = make().fit(X[seen], y[seen])  # type: ignore[attr-defined]
                taus.append(kendall_tau(model.predict(X[unseen]), y[unseen]))
                if hasattr(model, "interval"):
                    low, high = model.interval(X[unseen])
                    inside.append(np.mean((low <= y[unseen]) & (y[unseen] <= high)))
            covered = f" {np.mean(inside):.2f}" if inside else "     "
            cells.append(f"{np.mean(taus):.3f} ({min(taus):.2f}){covered}")
    print(f"{name:26}" + " ".join(cells), flush=True)


def zero_cost(networks: Sequence[Architecture], images: torch.Tensor) -> NDArray:
    """Return naswot and synflow of untrained networks."""
    found = []
    for seed, network in enumerate(networks):
        torch.manual_seed(seed)
        module = SPACE.build(network)
        score = naswot(module, images)  # before its weights become doubles
        found.append([synflow(module, SPACE.input_shape), score])
    scores = np.array(found)
    return np.maximum(scores, np.quantile(scores[np.isfinite(scores).all(1)], 0.01, axis=0))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--zero-cost", metavar="DATA")
    parser.add_argument("--networks", type=int, default=400)
    options = parser.parse_args()
    one_thread()
    file = options.folder / "nb201_accuracy.csv.gz"
    rows = {name: read_rows(Source(file, f"{name}_test_acc")) for name in SETS}
    space = SPACE.as_recorded()
    networks = rows[SETS[0]].by_network(space)
    every = list(networks)
    recorded = {name: accuracies(found, found.by_network(space)) for name, found in rows.items()}
    truth = {name: np.array([known.of(a) for a in every]) for name, known in recorded.items()}
    X = feature_matrix(space, every)
    plain = one_hot([space.canonical(a) for a in every])
    graphs = wl_features(space.graph(a) for a in every)
    ways: list[Way] = [
        ("gp", AccuracyGP, X),
        *((name, (lambda p=p: type(p)(**p.get_params())), X) for name, p in PREDICTORS.items() if name != "gp"),
        ("gp, one-hot pre-trained", AccuracyGP, pretrained(plain, X)),
        ("gp, Weisfeiler-Lehman", lambda: AccuracyGP(together=COLUMNS), graphs),
        ("gp, one-hot", AccuracyGP, plain),
        ("scikit-learn gp, one-hot", plain_gp, plain),
        ("scikit-learn forest, 1-hot", lambda: RandomForestRegressor(random_state=0), plain),
    ]
    head = " ".join(f"{f'{name[:8]} {count}':18}" for name in SETS for count in OBSERVED)
    print(f"tau (lowest) coverage     {head}")
    for way in ways:
        show(way[0], way, truth, options.draws)
    if options.zero_cost:
        data = load_dataset(options.zero_cost, None, 0)
        images = to_tensor(np.asarray(data.train.images[:IMAGES]), data.mean, data.std)
        distinct = list(dict.fromkeys(map(space.canonical, every)))
        chosen = np.random.default_rng(0).permutation(len(distinct))[: options.networks]
        sample = [distinct[i] for i in chosen]
        at = [every.index(a) for a in sample]
        part = {name: y[at] for name, y in truth.items()}
        scores = zero_cost(sample, images)
        print(f"{len(sample)} canonical cells, free features with and without naswot and synflow")
        show("gp", ("", AccuracyGP, X[at]), part, options.draws)
        show("gp + zero-cost", ("", AccuracyGP, np.hstack([X[at], scores])), part, options.draws)
        show("gp, one-hot", ("", AccuracyGP, plain[at]), part, options.draws)
        show("gp, one-hot + zero-cost", ("", AccuracyGP, np.hstack([plain[at], scores])), part, options.draws)
        for column, name in enumerate(("synflow", "naswot")):
            taus = [kendall_tau(scores[:, column], y) for y in part.values()]
            print(f"{name} alone: " + ", ".join(f"{tau:.3f}" for tau in taus))


if __name__ == "__main__":
    main()
