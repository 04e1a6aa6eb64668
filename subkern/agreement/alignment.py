"""Agreement as the angle between kernels: alignment, CKA, and alignment with the labels."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from subkern.agreement.blocks import (
    NOISE,
    Array,
    KernelLike,
    UndefinedError,
    as_blocks,
    as_pair,
    centre,
)
from subkern.errors import UserError

__all__ = ["alignment", "cka", "kernel_target_alignment"]


def _cosine(left: Array, right: Array, floors: tuple[float, float] = (0.0, 0.0)) -> float:
    """Return the cosine of the angle between two arrays; a norm at or below its floor is no
    direction.
    """
    sizes = float(np.linalg.norm(left)), float(np.linalg.norm(right))
    if sizes[0] <= floors[0] or sizes[1] <= floors[1]:
        raise UndefinedError(
            "a kernel is zero, or constant where it is centred, so it has no direction to align"
        )
    return float(np.clip(np.vdot(left / sizes[0], right / sizes[1]), -1.0, 1.0))


def _centred_cosine(left: Array, right: Array) -> float:
    """Return the cosine after centring both over examples, per logit pair."""
    floors = NOISE * float(np.linalg.norm(left)), NOISE * float(np.linalg.norm(right))
    return _cosine(centre(left), centre(right), floors)


def alignment(reference: KernelLike, other: KernelLike) -> float:
    """Return the uncentred kernel alignment.

    Formula
        ``<K, K'>_F / (||K||_F ||K'||_F)`` over all entries and logit pairs.
    Range
        -1 to 1 (0 to 1 for two positive semi-definite kernels); no unit; unchanged by a positive
        scale.
    Good
        above 0.99. Kernels of prompted models share a large constant part and align in any case:
        trust `cka`.
    Source
        Cristianini et al. 2001, "On kernel-target alignment".

    Kernels are ``[n, m]`` or ``[n, c, m, c]``. Raises `UserError` on bad input, `UndefinedError` on
    zeros.
    """
    return _cosine(*as_pair(reference, other))


def cka(reference: KernelLike, other: KernelLike) -> float:
    """Return the centred kernel alignment (CKA).

    Formula
        ``<C(K), C(K')>_F / (||C(K)||_F ||C(K')||_F)``, ``C(K) = H_n K H_m`` with ``H_n = I -
        11'/n``. With several logits every pair of logits is centred over its examples and the
        products are added over pairs. Rectangular kernels ``[n, m]`` are centred on both sides in
        the same way: the formula is the same, the kernel is then that of train against test.
    Range
        -1 to 1 (0 to 1 for two positive semi-definite kernels); no unit; unchanged by a positive
        scale and by anything constant along rows or columns.
    Good
        above 0.95; below 0.8 the kernels see different structure. It is the biased (plug-in)
        estimate: with few examples and large diagonals unrelated kernels also score well above 0,
        so compare at equal n.
    Source
        Cortes et al. 2012, "Algorithms for learning kernels based on centered alignment"; Kornblith
        et al. 2019.

    Kernels are ``[n, m]`` or ``[n, c, m, c]``. Raises `UserError` on bad input, `UndefinedError` on
    a kernel that is constant after centring.
    """
    return _centred_cosine(*as_pair(reference, other))


def kernel_target_alignment(
    kernel: KernelLike,
    labels: ArrayLike | None = None,
    right_labels: ArrayLike | None = None,
    *,
    centred: bool = True,
) -> float:
    """Return the alignment of a kernel with the ideal kernel of the labels.

    Formula
        `cka` (`alignment` if not ``centred``) of K and T. With one logit ``T_ij = +1`` if i and j
        have the same label and -1 if not for two classes, and the same-label indicator for more;
        of real labels ``T_ij = y_i y_j``;
        with c logits ``T[i, a, j, b] = Y_ia Y_jb``, Y one-hot: the kernel whose top eigenvector is
        the target.
    Range
        -1 to 1, no unit; unchanged by a positive scale.
    Good
        higher means that few directions suffice to learn the labels; compare with the reference
        kernel's own value rather than with 1.
    Source
        Cristianini et al. 2001; centred as in Cortes et al. 2012.

    ``labels`` are the row labels ``[n]``, ``right_labels`` the column labels ``[m]`` (``labels``
    again for a square kernel); a `Kernel` brings its own. Raises `UserError` on labels that do not
    fit, `UndefinedError` if all labels are the same.
    """
    blocks = as_blocks(kernel)
    n, c, m, _ = blocks.shape
    if labels is None:
        labels, right_labels = (
            getattr(kernel, "left_labels", None),
            getattr(kernel, "right_labels", None),
        )
    if right_labels is None and n == m:
        right_labels = labels
    left, right = _labels(labels, n, c, "labels"), _labels(right_labels, m, c, "right_labels")
    target = _target(left, right, c)
    return _centred_cosine(blocks, target) if centred else _cosine(blocks, target)


def _labels(labels: ArrayLike | None, count: int, logits: int, name: str) -> np.ndarray:
    """Return labels as an integer array of length ``count``, or raise `UserError`."""
    if labels is None:
        raise UserError(
            f"kernel_target_alignment needs {name}: give one integer per example ({count})"
        )
    array = np.asarray(labels)
    if array.shape != (count,):
        raise UserError(
            f"{name} has shape {list(array.shape)}: expected [{count}], one per example"
        )
    if logits > 1 and not np.isin(array, np.arange(logits)).all():
        raise UserError(
            f"{name} holds {sorted(set(array.tolist()))}: expected 0 to {logits - 1}, one per logit"
        )
    return array


def _target(left: np.ndarray, right: np.ndarray, logits: int) -> Array:
    """Return the ideal kernel ``[n, c, m, c]`` of two label arrays."""
    if left.dtype.kind == "f" and (left % 1).any():
        return np.multiply.outer(left, right)[:, None, :, None]
    if logits > 1:
        eye = np.eye(logits)
        return np.einsum("ia,jb->iajb", eye[left.astype(int)], eye[right.astype(int)])
    same = (left[:, None] == right[None, :]).astype(np.float64)
    if len(np.unique(np.concatenate([left, right]))) <= 2:
        same = 2.0 * same - 1.0
    return same[:, None, :, None]
