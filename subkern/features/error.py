"""How far a sketched kernel is from the exact one, on a sample, beside what theory expects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from subkern.errors import UserError
from subkern.features.features import Features
from subkern.kernels.belonging import READING, Side
from subkern.kernels.compute import compute_kernel
from subkern.kernels.kernel import Kernel
from subkern.kernels.request import RunOptions
from subkern.models.logit_model import LogitModel
from subkern.projections.theory import jl_epsilon
from subkern.subspaces.random import RandomSubspace

if TYPE_CHECKING:
    from subkern.prompts.prompt import EncodedExample


@dataclass(frozen=True)
class SketchError:
    """Errors (K̂ − K)/√(K_ii K_jj) over the pairs of a sample: in units of a cosine.

    One P serves all pairs, so their errors move together, the more so the more alike the gradients
    are (a prompted model's kernel is nearly constant): `rms` of one seed may well be twice or half
    of `expected_rms`, and `within_95` far from 0.95; over seeds they agree.

    Attributes:
        pairs: number of pairs of gradients, each with itself included.
        rms: root mean square of the errors.
        expected_rms: what the variance formula says it should be, (1 + cos²)/d averaged.
        largest: largest absolute error.
        within_95: share of pairs inside their theoretical 95% interval; 0.95 over many seeds.
        jl_epsilon: what the Johnson-Lindenstrauss bound allows, all pairs at once, at 5% risk; inf
            where the dimension is too small for one.
    """

    pairs: int
    rms: float
    expected_rms: float
    largest: float
    within_95: float
    jl_epsilon: float

    def as_dict(self) -> dict[str, float | None]:
        """As a row of a table; an infinite `jl_epsilon` (no bound at this dimension) is None."""
        bound = self.jl_epsilon if np.isfinite(self.jl_epsilon) else None
        return {**asdict(self), "jl_epsilon": bound}


def sketch_error(exact: Kernel, sketched: Kernel, dim: int) -> SketchError:
    """Compare two symmetric kernels of the same examples.

    Args:
        exact: kernel K of the inner subspace.
        sketched: kernel K̂ of the same examples in a random subspace.
        dim: its dimension.

    The interval is K ± 1.96 √((K_ii K_jj + K_ij²)/d): the variance of gaussian entries, an upper
    bound for rademacher, count_sketch and srht, the leading term for very_sparse.

    Raises:
        UserError: other examples, weights, readout or rule, or not symmetric.
    """
    if exact.left_ids != sketched.left_ids or not (exact.is_symmetric and sketched.is_symmetric):
        raise UserError("the two kernels are not of one set of examples with itself: compute both")
    if mine := Side.of(exact, "left", "the exact kernel"):
        theirs = Side.of(sketched, "left", "the sketched kernel")
        mine.require_same_examples(theirs)
        mine.require_made_alike(theirs, (("weights",), *READING))
    true, found = exact.matrix(), sketched.matrix()
    scale = np.sqrt(np.outer(np.diag(true), np.diag(true)))
    upper = np.triu_indices(len(true))
    alive = scale[upper] > 0
    scales = scale[upper][alive]
    cosines = true[upper][alive] / scales
    errors = found[upper][alive] / scales - cosines
    deviation = np.sqrt((1 + cosines**2) / dim)
    return SketchError(
        pairs=len(errors),
        rms=float(np.sqrt(np.mean(errors**2))),
        expected_rms=float(np.sqrt(np.mean(deviation**2))),
        largest=float(np.abs(errors).max()),
        within_95=float(np.mean(np.abs(errors) <= 1.96 * deviation)),
        jl_epsilon=jl_epsilon(dim, 0.05, len(errors)),
    )


def check_allocation(subspace: RandomSubspace) -> None:
    """Raise `UserError` unless the variance formula of one P over all parameters holds."""
    if subspace.allocation != "global":
        raise UserError(
            f"no interval is known for allocation '{subspace.allocation}': use global, or no check"
        )


def feature_error(
    model: LogitModel,
    examples: Sequence[EncodedExample],
    features: Features,
    *,
    subspace: RandomSubspace,
    sample: int = 32,
    seed: int = 0,
    options: RunOptions | None = None,
) -> SketchError:
    """Error of `features` against the exact kernel of `sample` of the examples, drawn by `seed`.

    Args:
        model: what the features were computed with.
        examples: those of the features.
        features: of `subspace`.
        subspace: the random subspace; its inner one gives the exact kernel.
        sample: how many examples, at most; the exact kernel of them is computed.
        seed: of the draw.
        options: batch size and memory.

    Raises:
        UserError: dimensions are allocated per parameter: no formula in the kernel's entries alone
            gives the variance there.
    """
    check_allocation(subspace)
    count = min(sample, len(examples))
    drawn = np.random.default_rng(seed).permutation(len(examples))[:count]
    picked = [examples[i] for i in sorted(drawn.tolist())]
    exact = compute_kernel(model, picked, subspace=subspace.inner, options=options)
    sketched = features.select([e.id for e in picked]).kernel()
    return sketch_error(exact, sketched, subspace.dim)
