"""Features that were learned from statistics that cost nothing, before any accuracy is known.

FBNetV3 (Dai et al., CVPR 2021, section 3.2) pre-trains its predictor's embedding of architectures to predict their
MACs and parameters. Here the embedding feeds the Gaussian process.
"""

from typing import Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.neural_network import MLPRegressor
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_is_fitted, validate_data


class StatisticsEmbedding(TransformerMixin, BaseEstimator):
    """The hidden layer of a perceptron that has learned statistics of random architectures from their decisions.

    Args:
        width: numbers in the embedding.
        steps: passes over the random architectures.
    """

    def __init__(self, width: int = 16, steps: int = 300) -> None:
        self.width = width
        self.steps = steps

    def fit(self, X: NDArray, y: NDArray) -> Self:
        """Learn to predict statistics ``y`` (n, k) from descriptors of decisions ``X`` (n, d), of any architectures."""
        X, y = validate_data(self, X, y, dtype=float, multi_output=True, y_numeric=True)
        y = y.reshape(len(y), -1)
        self.scaler_ = StandardScaler().fit(X)
        targets = StandardScaler().fit_transform(y)
        network = MLPRegressor(
            hidden_layer_sizes=(self.width,), activation="tanh", max_iter=self.steps, random_state=0, tol=0.0
        )
        self.network_ = network.fit(self.scaler_.transform(X), targets if targets.shape[1] > 1 else targets[:, 0])
        return self

    def transform(self, X: NDArray) -> NDArray:
        """Return the embedding (n, width) of descriptors (n, d)."""
        check_is_fitted(self)
        X = self.scaler_.transform(validate_data(self, X, reset=False, dtype=float))
        return np.tanh(X @ self.network_.coefs_[0] + self.network_.intercepts_[0])
