"""How far inner products move in a random subspace, and how far theory lets them.

The distortion of a pair of gradients u, v under a projection P is (⟨Pᵀu, Pᵀv⟩ − ⟨u, v⟩) / (‖u‖‖v‖).
Read from kernels: with K the full one and K_P the projected one it is (K_P − K)_ij / √(K_ii K_jj).
Theory, for d dimensions and E[PPᵀ] = I:

* mean 0 and variance (1 + cos²(u, v)) / d, exactly so for gaussian P;
* Johnson-Lindenstrauss: beyond ±ε with a probability of at most 4 exp(−(ε² − ε³) d / 4), for
  gaussian, rademacher and sparse P.

Both hold for any vectors, so also for centered gradients, from which the classifiers learn:
centering over examples is linear and commutes with the projection.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isfinite, nan

import numpy as np
import numpy.typing as npt

from subkern.kernels.kernel import Kernel
from subkern.projections.theory import jl_epsilon

Floats = npt.NDArray[np.float64]

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
NORMAL = 1.959963984540054  # 95 % of a normal distribution lie within so many σ
_CONFIDENCE = 0.95  # of the JL bound
_SIMULATIONS, _RESAMPLES = 200, 4000


@dataclass(frozen=True)
class Pairs:
    """All pairs of gradients of some examples, each once, a gradient with itself included.

    Attributes:
        rows, columns: indices ``[p]`` into the kernel's matrix ``[n·c, n·c]``.
        products: inner products ``[p]``.
        norms: products of norms ``[p]``.
        factor: F ``[n·c, k]`` with F Fᵀ the kernel's matrix.
        centered: whether the gradients are centered over the examples.
    """

    rows: npt.NDArray[np.intp]
    columns: npt.NDArray[np.intp]
    products: Floats
    norms: Floats
    factor: Floats
    centered: bool

    @property
    def cosines(self) -> Floats:
        """cos(u, v) ``[p]``."""
        return np.clip(self.products / self.norms, -1.0, 1.0)


@dataclass(frozen=True)
class Distortions:
    """Measured distortions of one kind of projection at one dimension.

    Attributes:
        errors: distortions ``[s, p]``: draw of the projection × pair.
        sigma: standard deviation of each pair ``[p]`` by the variance formula.
        epsilon: the JL bound for one pair at 95 %, NaN where it gives none.
    """

    errors: Floats
    sigma: Floats
    epsilon: float

    @property
    def quantiles(self) -> Floats:
        """`QUANTILES` over pairs and draws."""
        return np.asarray(np.quantile(self.errors, QUANTILES))

    @property
    def ratios(self) -> Floats:
        """Measured root mean square over the formula's, one a draw ``[s]``; 1 if it holds."""
        return np.asarray(np.sqrt(np.mean((self.errors / self.sigma) ** 2, axis=1)))

    @property
    def inside(self) -> Floats:
        """Share of the pairs within ±1.96 σ, one a draw ``[s]``; normally distributed: 0.95."""
        return np.asarray(np.mean(np.abs(self.errors) <= NORMAL * self.sigma, axis=1))

    @property
    def inside_bound(self) -> Floats:
        """Share of the pairs within ±ε, one a draw ``[s]``: 0.95 or more; NaN without a bound."""
        if np.isnan(self.epsilon):
            return np.full(len(self.errors), nan)
        return np.asarray(np.mean(np.abs(self.errors) <= self.epsilon, axis=1))

    @property
    def shared(self) -> float:
        """Share of the mean square that all pairs of a draw have in common: (mean over pairs)².

        Near 1 for nearly parallel gradients: the draw scales the whole kernel, which no classifier
        sees.
        """
        total = float(np.mean(self.errors**2))
        return float(np.mean(self.errors.mean(1) ** 2)) / total if total else 0.0


def pairs(kernel: Kernel, *, centered: bool = False) -> Pairs:
    """Return the pairs of the rows' gradients of a square kernel ``[n, c, n, c]``.

    Gradients of (next to) no length are left out: they have no direction.
    """
    matrix = _matrix(kernel, centered=centered)
    squares = np.diag(matrix)
    kept = np.flatnonzero(squares > 1e-12 * max(float(squares.max(initial=0.0)), 0.0))
    upper = np.triu_indices(len(kept))
    rows, columns = kept[upper[0]], kept[upper[1]]
    norms = np.sqrt(squares[rows] * squares[columns])
    values, vectors = np.linalg.eigh(matrix)
    factor = vectors * np.sqrt(np.maximum(values, 0.0))
    return Pairs(rows, columns, matrix[rows, columns], norms, factor, centered)


def distortions(full: Pairs, projected: Sequence[Kernel], dim: int) -> Distortions:
    """Return the distortions of these pairs under several draws of one kind of projection."""
    errors = [
        (_matrix(kernel, centered=full.centered)[full.rows, full.columns] - full.products)
        / full.norms
        for kernel in projected
    ]
    epsilon = jl_epsilon(dim, 1.0 - _CONFIDENCE)
    bound = epsilon if isfinite(epsilon) else nan
    return Distortions(np.array(errors), sigma(full.cosines, dim), bound)


def sigma(cosines: Floats, dim: int) -> Floats:
    """Return the distortion's standard deviation, √((1 + cos²)/d).

    That is `subkern.projections.theory.variance` as far as kernels tell it, without Σ u_i² v_i²:
    exact for
    gaussian, nearly so for sparse, a bound for rademacher, count_sketch and srht, and the leading
    term for very_sparse.
    """
    return np.asarray(np.sqrt((1.0 + cosines**2) / dim))


def expected_ratio(
    full: Pairs, dims: Sequence[int], draws: int, confidence: float
) -> tuple[float, float]:
    """Return the range of measured over predicted spread that so few draws give if theory holds.

    The spread is the root mean square of distortion over σ, over pairs, dimensions and draws, the
    dimensions of one draw being prefixes of each other. Simulated for a Gaussian P, under which the
    projected gradients of r examples are r-dimensional Gaussians: no model is needed.
    """
    rng = np.random.default_rng(0)
    squares = np.array([_simulated_square(full, dims, rng) for _ in range(_SIMULATIONS)])
    means = rng.choice(squares, (_RESAMPLES, draws)).mean(1)
    tail = (1.0 - confidence) / 2.0
    low, high = np.sqrt(np.quantile(means, [tail, 1.0 - tail]))
    return float(low), float(high)


def _simulated_square(full: Pairs, dims: Sequence[int], rng: np.random.Generator) -> float:
    """Return the mean square of distortion over σ, over pairs and dimensions, of one draw."""
    drawn = rng.standard_normal((full.factor.shape[1], dims[-1]))
    gram = np.zeros((len(full.factor),) * 2)
    start, squares = 0, []
    for dim in dims:
        part = full.factor @ drawn[:, start:dim]
        gram += part @ part.T
        errors = (gram[full.rows, full.columns] / dim - full.products) / full.norms
        squares.append(np.mean((errors / sigma(full.cosines, dim)) ** 2))
        start = dim
    return float(np.mean(squares))


def statistics(found: Distortions) -> Iterator[tuple[str, float]]:
    """Yield name and value of what holds over all draws together."""
    for quantile, value in zip(QUANTILES, found.quantiles, strict=True):
        yield f"q{round(100 * quantile):02d}", float(value)
    yield "sigma", float(np.sqrt(np.mean(found.sigma**2)))
    yield "epsilon", found.epsilon
    yield "shared", found.shared


def draw_statistics(found: Distortions) -> Iterator[tuple[str, Floats]]:
    """Yield name and values ``[s]`` of what is measured of each draw."""
    yield "ratio", found.ratios
    yield "inside", found.inside
    yield "inside_bound", found.inside_bound


def _matrix(kernel: Kernel, *, centered: bool) -> Floats:
    """Return the kernel as ``[n·c, n·c]``, doubly centered over examples, logit by logit, if so."""
    values = kernel.values
    if centered:
        values = values - values.mean(0, keepdims=True)
        values = values - values.mean(2, keepdims=True)
    n, c, _, _ = values.shape
    return values.reshape(n * c, n * c)
