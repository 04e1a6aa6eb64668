"""Agreement of spectra: ranks, leading subspaces and the two-sided spectral bound."""

from __future__ import annotations

import numpy as np

from subkern.agreement.blocks import (
    NOISE,
    Array,
    KernelLike,
    UndefinedError,
    as_blocks,
    as_matrix,
    as_pair,
    centre,
)
from subkern.errors import UserError
from subkern.symmetry import is_symmetric, require_symmetric

__all__ = ["effective_rank", "eigenspace_overlap", "spectral_epsilon", "stable_rank"]


def _matrix(blocks: Array, centred: bool) -> Array:
    """Return blocks as a matrix, centred if asked for; refuse one without any direction."""
    used = centre(blocks) if centred else blocks
    if float(np.linalg.norm(used)) <= NOISE * float(np.linalg.norm(blocks)):
        raise UndefinedError(
            "the kernel is zero, or constant where it is centred, so it has no spectrum"
        )
    return as_matrix(used)


def _singular_values(matrix: Array) -> Array:
    """Return the singular values, largest first; of a symmetric matrix by the cheaper
    eigenvalues.
    """
    if is_symmetric(matrix[:, None, :, None], rtol=1e-14):
        return np.sort(np.abs(np.linalg.eigvalsh(matrix)))[::-1]
    return np.asarray(np.linalg.svd(matrix, compute_uv=False), dtype=np.float64)


def _left_singular(matrix: Array) -> tuple[Array, Array]:
    """Return singular values, largest first, and left singular vectors in columns."""
    if is_symmetric(matrix[:, None, :, None], rtol=1e-14):
        values, vectors = np.linalg.eigh(matrix)
        order = np.argsort(-np.abs(values))
        return np.abs(values)[order], vectors[:, order]
    if matrix.shape[1] > matrix.shape[0]:
        # M = R' Q': the triangle has the left singular vectors of M at a fraction of the cost.
        matrix = np.asarray(np.linalg.qr(matrix.T, mode="r")).T
    vectors, values, _ = np.linalg.svd(matrix, full_matrices=False)
    return values, vectors


def _unique(values: Array, rtol: float) -> np.ndarray:
    """Say for k = 1, 2, … whether the leading k-dimensional subspace is one: it ends at a gap."""
    gaps = values - np.append(values[1:], 0.0)
    return np.asarray(gaps > rtol * values[0])


def effective_rank(kernel: KernelLike, *, centred: bool = False) -> float:
    """Return the effective rank by entropy.

    Formula
        ``exp(-sum_i p_i ln p_i)``, ``p_i = sigma_i / sum_j sigma_j`` over the singular values of
        the matrix ``[n*c, m*c]`` (the eigenvalues of a positive semi-definite kernel).
    Range
        1 to min(n*c, m*c), in directions; unchanged by scale and by rotations.
    Good
        close to the reference kernel's own: a lower one means that the subspace has merged
        directions.
    Source
        Roy and Vetterli 2007, "The effective rank: a measure of effective dimensionality".

    Raises `UserError` on bad input, `UndefinedError` on zeros.
    """
    values = _singular_values(_matrix(as_blocks(kernel), centred))
    shares = values / values.sum()
    shares = shares[shares > 0]
    return float(np.exp(-np.sum(shares * np.log(shares))))


def stable_rank(kernel: KernelLike, *, centred: bool = False) -> float:
    """Return the stable rank.

    Formula
        ``||K||_F^2 / ||K||_2^2`` of the matrix ``[n*c, m*c]``.
    Range
        1 to the rank, in directions; unchanged by scale; never above the rank, and insensitive to
        small singular values.
    Good
        close to the reference kernel's own; 1 means that one direction holds nearly everything
        (usual before centring on prompted models).
    Source
        Rudelson and Vershynin 2007, "Sampling from large matrices".

    Raises `UserError` on bad input, `UndefinedError` on zeros.
    """
    values = _singular_values(_matrix(as_blocks(kernel), centred))
    return float(np.sum((values / values[0]) ** 2))


def eigenspace_overlap(
    reference: KernelLike,
    other: KernelLike,
    *,
    k: int | None = None,
    centred: bool = False,
    rtol: float = 1e-6,
) -> float:
    """Return the overlap of the leading k-dimensional subspaces.

    Formula
        ``||U_k' U'_k||_F^2 / k``: the mean squared cosine of the principal angles between the spans
        of the first k left singular vectors of the matrices ``[n*c, m*c]`` (eigenvectors, if
        symmetric; for train against test the side of the training examples).
    Range
        0 to 1, no unit; two random subspaces score k/(n*c) on average. Unchanged by scale.
    Good
        above 0.9.
    Source
        principal angles, Björck and Golub 1973.

    A leading subspace exists where the k-th singular value is above the next one (0 after the
    last) by ``rtol`` of the largest: less is rounding, of kernels captured in float32. Without
    ``k`` it is the largest up to 10 at which both kernels have one: of rank 2 it is at most 2.
    Raises `UserError` on bad input or a ``k`` out of range, `UndefinedError` where there is none.
    """
    left, right = as_pair(reference, other)
    n, c, m, _ = left.shape
    most = min(n, m) * c
    if k is not None and not 1 <= k <= most:
        raise UserError(
            f"k={k} is out of range: these kernels have 1 to {most} singular directions"
        )
    (one, first), (two, second) = (_left_singular(_matrix(b, centred)) for b in (left, right))
    both = 1 + np.flatnonzero(_unique(one, rtol) & _unique(two, rtol))
    found = both[both <= 10] if k is None else both[both == k]
    if not len(found):
        raise UndefinedError(
            f"the kernels do not both have a leading subspace of {k or 'up to 10'} directions:"
            " singular values tie, or are zero, there"
        )
    k = int(found[-1])
    return float(np.clip(np.sum((first[:, :k].T @ second[:, :k]) ** 2) / k, 0.0, 1.0))


def spectral_epsilon(
    reference: KernelLike, other: KernelLike, *, scaled: bool = False, rtol: float = 1e-6
) -> float:
    """Return the smallest epsilon of the two-sided bound ``(1 - eps) K <= s K' <= (1 + eps) K``.

    Formula
        ``eps = max_i |s lambda_i - 1|``, lambda the generalized eigenvalues of ``K' v = lambda K
        v`` on the range of K, ``s = 1``. If ``scaled``, s is the one that minimizes eps: ``s = 2 /
        (lambda_1 + lambda_N)``, so that ``eps = (lambda_1 - lambda_N) / (lambda_1 + lambda_N)``,
        and 1 if ``lambda_N <= 0``. The range of K is spanned by eigenvectors with eigenvalues above
        ``rtol`` times the largest (kernels captured in float32 are noise below that). If K' has
        more than ``rtol`` of its own norm outside that range, no epsilon works and the result is
        infinity.
    Range
        0 to infinity (0 to 1 if ``scaled`` and finite), no unit; unchanged by scaling both kernels
        together.
    Good
        below 0.5: ridge regression on K' then behaves as on K with regularization changed by at
        most that share. 1 (scaled) means that K' has lost a direction of K. It is the strictest
        metric here: one small eigenvalue decides it.
    Source
        the spectral approximation of randomized numerical linear algebra; Avron et al. 2017,
        "Random Fourier features for kernel ridge regression".

    Needs symmetric kernels ``[n, n]`` or ``[n, c, n, c]`` and a positive semi-definite reference.
    Raises `UserError` otherwise.
    """
    left, right = as_pair(reference, other)
    require_symmetric(left, "spectral_epsilon")
    require_symmetric(right, "spectral_epsilon")
    values, vectors = np.linalg.eigh(_matrix(left, centred=False))
    if values[0] < -rtol * max(values[-1], 0.0):
        raise UserError(
            "spectral_epsilon needs a positive semi-definite reference, this one has eigenvalues "
            f"from {values[0]:.3g} to {values[-1]:.3g}: raise rtol if that is rounding"
        )
    inside = values > rtol * values[-1]
    rotated = vectors.T @ as_matrix(right) @ vectors
    if _leaves_range(rotated, inside, rtol):
        return float("inf")
    whitening = 1.0 / np.sqrt(values[inside])
    ratios = np.linalg.eigvalsh(
        whitening[:, None] * rotated[np.ix_(inside, inside)] * whitening[None, :]
    )
    low, high = float(ratios[0]), float(ratios[-1])
    if not scaled:
        return max(abs(high - 1.0), abs(low - 1.0))
    return (high - low) / (high + low) if low > 0 else 1.0


def _leaves_range(rotated: Array, inside: np.ndarray, rtol: float) -> bool:
    """Say whether K', in the eigenbasis of K, has mass outside the range of K.

    A positive semi-definite matrix with a block of norm ``d`` on the null space has at most
    ``sqrt(d ||K'||)`` beside it, so the block beside it is measured against the root of ``rtol``.
    """
    if inside.all():
        return False
    norm = float(np.linalg.norm(rotated, 2))
    null = float(np.linalg.norm(rotated[np.ix_(~inside, ~inside)], 2))
    beside = float(np.linalg.norm(rotated[np.ix_(~inside, inside)], 2))
    return null > rtol * norm or beside > np.sqrt(rtol) * norm
