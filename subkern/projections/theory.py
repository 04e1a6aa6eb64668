"""Johnson-Lindenstrauss maps of gradients: θ = θ₀ + P z, so K = G P Pᵀ Gᵀ, with E[PPᵀ] = I.

P ``[D, d]`` is never stored: see `subkern.projections.maps` for how each kind is made and why it is
the same whatever the batch, the tile, the thread or the machine. The estimate ⟨Pᵀu, Pᵀv⟩ of ⟨u, v⟩
is unbiased for every kind. With

    S = Σ_{i≠j} (u_i² v_j² + u_i v_i u_j v_j) = ‖u‖²‖v‖² + ⟨u, v⟩² − 2 Σ u_i² v_i²

its variance is, exactly,

| kind | variance × d | source |
| --- | --- | --- |
| gaussian | S + 2 Σ u_i² v_i² = ‖u‖²‖v‖² + ⟨u, v⟩² | Johnson and Lindenstrauss (1984) |
| rademacher | S | Achlioptas (2003) |
| sparse | S + 2 Σ u_i² v_i² (s = 3) | Achlioptas (2003) |
| very_sparse | S − S_same stretch + (s − 1) Σ u_i² v_i², s = √size | Li, Hastie, Church (2006) |
| count_sketch | S − (1 − d·q) S_same block | Charikar et al. (2002) |
| srht | S − (1 − d·q) S_same block | Ailon and Chazelle (2006), Tropp (2011) |

where S_same sums only pairs i ≠ j of the same stretch or block, and q = (B − d)/(d(B − 1)) < 1/d.
(gaussian entries have 2¹⁶ levels and sparse ones s = 2.9999: their true fourth moments count here.
count_sketch: where d does not divide B, a little more; see `subkern.projections.exact_variance`.)
"""

from __future__ import annotations

from math import exp, log

from subkern.errors import UserError
from subkern.projections.maps import kurtosis
from subkern.projections.spec import check_kind


def variance(
    kind: str,
    left: float,
    right: float,
    product: float,
    dim: int,
    *,
    fourth: float = 0.0,
    sparsity: float = 3.0,
) -> float:
    """Variance of ⟨Pᵀu, Pᵀv⟩ from a few numbers: (‖u‖²‖v‖² + ⟨u, v⟩² + (κ − 3) Σ u_i² v_i²) / d.

    With `fourth` left out it is what the diagonal of a kernel gives: exact for gaussian, very
    nearly so for sparse, a bound for rademacher, count_sketch and srht, and for very_sparse the
    leading term. `subkern.projections.exact_variance.exact_variance` is exact for every kind.

    Args:
        kind: one of `KINDS`.
        left: ‖u‖².
        right: ‖v‖².
        product: ⟨u, v⟩.
        dim: d.
        fourth: Σ u_i² v_i².
        sparsity: s of very_sparse entries.
    """
    check_kind(kind)
    if kind == "very_sparse":
        own = sparsity
    else:
        own = 1.0 if kind in ("count_sketch", "srht") else kurtosis(kind)
    return (left * right + product**2 + (own - 3) * fourth) / dim


def jl_bound(epsilon: float, dim: int) -> float:
    """Most that Pr[|⟨Pᵀu, Pᵀv⟩ − ⟨u, v⟩| ≥ ε ‖u‖‖v‖] can be: 4 exp(−(ε² − ε³) d / 4), at most 1.

    Holds for gaussian, rademacher and sparse entries and 0 < ε < 1 (Dasgupta and Gupta, 2003, for
    ‖u ± v‖²); a statement about all of m pairs takes m times as much (union).

    Raises:
        UserError: ε outside (0, 1).
    """
    if not 0 < epsilon < 1:
        raise UserError(f"epsilon {epsilon} is not between 0 and 1: the bound is for those")
    return min(1.0, 4 * exp(-(epsilon**2 - epsilon**3) * dim / 4))


def jl_epsilon(dim: int, probability: float, pairs: int = 1) -> float:
    """Smallest ε such that all of `pairs` stay within ε‖u‖‖v‖ except with `probability`.

    inf where no ε < 2/3 does (beyond it the bound's exponent falls again).
    """
    needed = 4 * log(4 * pairs / probability) / dim
    low, high = 0.0, 2 / 3
    if high**2 - high**3 < needed:
        return float("inf")
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if middle**2 - middle**3 < needed else (low, middle)
    return high


def interval(
    kind: str, left: float, right: float, product: float, dim: int, *, deviations: float = 1.96
) -> tuple[float, float]:
    """Where ⟨Pᵀu, Pᵀv⟩ falls with 95% probability: ⟨u, v⟩ ± 1.96 √`variance`.

    Normal approximation, good for d of 30 or more. Arguments as for `variance`.
    """
    spread = deviations * variance(kind, left, right, product, dim) ** 0.5
    return product - spread, product + spread
