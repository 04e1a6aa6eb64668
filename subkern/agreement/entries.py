"""Agreement entry by entry: relative differences and correlations."""

from __future__ import annotations

from typing import Literal

import numpy as np

from subkern.agreement.blocks import NOISE, Array, KernelLike, UndefinedError, as_pair, centre
from subkern.errors import UserError

__all__ = ["entry_difference", "optimal_scale", "pearson", "relative_frobenius", "spearman"]


def _scale(reference: Array, other: Array, floor: float = 0.0) -> float:
    """Return ``<K, K'> / <K', K'>``; a K' of a norm at or below the floor is none."""
    energy = float(np.vdot(other, other))
    if energy <= floor**2:
        raise UndefinedError(
            "no scale brings the other kernel to the reference: all its (centred) entries are 0"
        )
    return float(np.vdot(reference, other)) / energy


def _prepared(
    reference: KernelLike, other: KernelLike, scaled: bool, centred: bool
) -> tuple[Array, Array, float]:
    """Return the two kernels as blocks, centred and the second one scaled if asked for, and the
    size at which an entry of them is rounding.
    """
    left, right = as_pair(reference, other)
    largest = float(np.abs(left).max()), float(np.abs(right).max())
    floor = NOISE * float(np.linalg.norm(right)) if centred else 0.0
    if centred:
        noise = NOISE * float(np.linalg.norm(left))
        left, right = centre(left), centre(right)
        if float(np.linalg.norm(left)) <= noise:
            raise UndefinedError(
                "the reference kernel is constant, so nothing is left of it after centring"
            )
    scale = _scale(left, right, floor) if scaled else 1.0
    return left, right * scale, NOISE * max(largest[0], abs(scale) * largest[1])


def optimal_scale(reference: KernelLike, other: KernelLike, *, centred: bool = False) -> float:
    """Return the scale that brings ``other`` closest to ``reference``.

    Formula
        ``s = argmin_s ||K - s K'||_F = <K, K'>_F / <K', K'>_F``.
    Range
        any real number, negative only for kernels that point in opposite directions; in units of K
        per unit of K'.
    Good
        a LoRA or random-subspace kernel matches the full kernel only up to such a scale, which a
        learning rate absorbs, so its value is not itself a fault.
    Source
        least squares in one variable.

    Kernels are ``[n, m]`` or ``[n, c, m, c]``. Raises `UserError` on shapes, ids or values that do
    not match, and on an ``other`` of zeros.
    """
    left, right = as_pair(reference, other)
    if not centred:
        return _scale(left, right)
    return _scale(centre(left), centre(right), NOISE * float(np.linalg.norm(right)))


def relative_frobenius(
    reference: KernelLike, other: KernelLike, *, scaled: bool = False, centred: bool = False
) -> float:
    """Return the relative Frobenius difference of two kernels.

    Formula
        ``||K - s K'||_F / ||K||_F`` with ``s = 1``, or `optimal_scale` if ``scaled``; both kernels
        are first centred over examples (per logit pair, rows and columns) if ``centred``. With
        ``scaled`` it equals ``sqrt(1 - A^2)``, A the `alignment` (`cka` if also ``centred``).
    Range
        0 to infinity, 0 to 1 if ``scaled``; no unit.
    Good
        below 0.1 the kernels are near enough that solvers agree on almost every example. Prompted
        kernels are nearly constant, so the raw number flatters: read the centred one beside it.
    Source
        the usual relative matrix error; raw as in Malladi et al. 2023 for LoRA and for fixed
        features.

    Kernels are ``[n, m]`` or ``[n, c, m, c]``. Raises `UserError` on bad input, `UndefinedError` if
    K is zero.
    """
    left, right, _ = _prepared(reference, other, scaled, centred)
    size = float(np.linalg.norm(left))
    if size == 0.0:
        raise UndefinedError(
            "the reference kernel is all zeros, so a relative difference has no meaning"
        )
    return float(np.linalg.norm(left - right)) / size


def entry_difference(
    reference: KernelLike,
    other: KernelLike,
    *,
    scaled: bool = False,
    centred: bool = False,
    reduce: Literal["mean", "median"] = "mean",
) -> float:
    """Return the mean or median relative difference of single entries.

    Formula
        ``mean_ij |K_ij - s K'_ij| / |K_ij|`` (or the median), entries of all logit pairs alike;
        ``s`` and centring as in `relative_frobenius`, ``s`` from the Frobenius norm. ``0/0`` counts
        as 0 and ``x/0`` as infinity, so a reference entry of 0 shows instead of vanishing; 0 is
        what is below 1e-10 of the largest entry.
    Range
        0 to infinity, no unit.
    Good
        below 0.1. One entry near 0 can carry the mean (always so for centred kernels, whose entries
        change sign), so prefer the median there; where the two differ much, small entries are what
        differs.
    Source
        the mean is the element-wise relative distance by which Malladi et al. 2023 compare kernels;
        the median is its robust form.

    Kernels are ``[n, m]`` or ``[n, c, m, c]``. Raises `UserError` on bad input or another
    ``reduce``.
    """
    if reduce not in ("mean", "median"):
        raise UserError(f"reduce={reduce!r} is not known: use 'mean' or 'median'")
    left, right, noise = _prepared(reference, other, scaled, centred)
    difference, size = np.abs(left - right).ravel(), np.abs(left).ravel()
    ratio = np.full_like(size, np.inf)
    np.divide(difference, size, out=ratio, where=size > noise)
    ratio[(size <= noise) & (difference <= noise)] = 0.0
    return float(ratio.mean() if reduce == "mean" else np.median(ratio))


def _correlation(left: Array, right: Array) -> float:
    """Return the Pearson correlation of two flat arrays."""
    noise = NOISE * float(np.linalg.norm(left)), NOISE * float(np.linalg.norm(right))
    left, right = left - left.mean(), right - right.mean()
    sizes = float(np.linalg.norm(left)), float(np.linalg.norm(right))
    if sizes[0] <= noise[0] or sizes[1] <= noise[1]:
        raise UndefinedError(
            "all entries of a kernel are equal, so a correlation of entries has no meaning"
        )
    return float(np.clip(np.vdot(left / sizes[0], right / sizes[1]), -1.0, 1.0))


def pearson(reference: KernelLike, other: KernelLike) -> float:
    """Return the Pearson correlation of corresponding entries.

    Formula
        ``corr(vec K, vec K')`` over all entries and logit pairs, the diagonal included; one mean
        for the whole kernel is taken off, unlike CKA, which takes off row and column means.
    Range
        -1 to 1, no unit; unchanged by a positive scale and a constant added to either kernel.
    Good
        above 0.95.
    Source
        Pearson 1895.

    Kernels are ``[n, m]`` or ``[n, c, m, c]``. Raises `UserError` on bad input, `UndefinedError` on
    constants.
    """
    left, right = as_pair(reference, other)
    return _correlation(left.ravel(), right.ravel())


def _ranks(values: Array) -> Array:
    """Return ranks with ties, to rounding, at their mean: `scipy.stats.rankdata`, at half the time
    a bootstrap takes.
    """
    noise = NOISE * float(np.abs(values).max())
    order = np.argsort(values)
    ascending = values[order]
    starts = np.flatnonzero(np.concatenate([[True], np.diff(ascending) > noise]))
    lengths = np.diff(np.append(starts, len(values)))
    ranks = np.empty(len(values))
    ranks[order] = np.repeat(starts + 0.5 * (lengths + 1), lengths)
    return ranks


def spearman(reference: KernelLike, other: KernelLike) -> float:
    """Return the Spearman rank correlation of corresponding entries.

    Formula
        `pearson` of the ranks of the entries, ties (to 1e-10 of the largest) at their mean rank.
    Range
        -1 to 1, no unit; unchanged by any increasing map of either kernel.
    Good
        above 0.95: the kernels order pairs of examples alike, whatever their sizes.
    Source
        Spearman 1904.

    Kernels are ``[n, m]`` or ``[n, c, m, c]``. Raises `UserError` on bad input, `UndefinedError` on
    constants.
    """
    left, right = as_pair(reference, other)
    return _correlation(_ranks(left.ravel()), _ranks(right.ravel()))
