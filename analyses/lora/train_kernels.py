"""What the train kernels of a LoRA study look like: sorted by label, and their spectra."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from subkern.kernels.kernel import Kernel

from .config import Config

Floats = npt.NDArray[np.float64]

_FAINT = 0.2  # standard deviations: blocks that differ less are not seen
_MOST_SPECTRA = 8


@dataclass(frozen=True)
class Shape:
    """How one train kernel looks.

    Attributes:
        title: whose it is.
        kernel: the kernel, train × train.
        blocks: how far entries within labels are above those between; see :func:`contrast`.
        spectrum: shares of the sum, descending.
        largest: the first of these.
        directions: how many equal ones would be as spread; see :func:`effective_directions`.
    """

    title: str
    kernel: Kernel = field(repr=False)
    blocks: float
    spectrum: Floats = field(repr=False)
    largest: float
    directions: float

    @classmethod
    def of(cls, title: str, kernel: Kernel) -> Shape:
        """Return the shape of the train part of a kernel."""
        train = kernel.select(right=list(kernel.left_ids))
        shares = spectrum(train)
        return cls(
            title, train, contrast(train), shares, float(shares[0]), effective_directions(shares)
        )


@dataclass(frozen=True)
class Shapes:
    """The train kernels that are shown: full fine-tuning's first, then LoRA's, ranks ascending.

    Attributes:
        data_seed, adapter_seed: of which they are.
        sorted: those shown sorted by label: of the least, middle and greatest rank.
        spectra: those whose spectrum is shown, of at most 8 ranks.
        told: those whose spectrum is put into words: of the least and greatest rank.
        faint: whether full fine-tuning's blocks can hardly be seen.
    """

    data_seed: int
    adapter_seed: int
    sorted: tuple[Shape, ...]
    spectra: tuple[Shape, ...]
    told: tuple[Shape, ...]
    faint: bool

    @classmethod
    def of(
        cls, kernels: Mapping[str, Kernel], config: Config, targets: str, ranks: Sequence[int]
    ) -> Shapes:
        """Return the shapes of a target set's kernels, of the first seeds."""
        data_seed, adapter_seed = config.data_seeds[0], config.adapter_seeds[0]
        last = len(ranks) - 1
        three = dict.fromkeys((ranks[0], ranks[len(ranks) // 2], ranks[-1]))
        places = np.linspace(0, last, min(len(ranks), _MOST_SPECTRA)).round().astype(int)
        few = [ranks[i] for i in places]
        full = Shape.of("full fine-tuning", kernels[f"{data_seed}/full"])
        of_rank = {
            rank: Shape.of(
                f"LoRA rank {rank}",
                kernels[f"{data_seed}/{config.kernel(targets, f'lora-r{rank}-s{adapter_seed}')}"],
            )
            for rank in dict.fromkeys([*three, *few])
        }
        shown, spectra = ([full, *(of_rank[rank] for rank in each)] for each in (three, few))
        told = dict.fromkeys((0, 1, len(spectra) - 1))
        return cls(
            data_seed, adapter_seed, tuple(shown), tuple(spectra),
            tuple(spectra[i] for i in told), abs(full.blocks) < _FAINT,
        )  # fmt: skip


def heatmap(kernel: Kernel) -> Floats:
    """Return ``[n, n]``: the kernel's trace over logits, doubly centered, over its mean diagonal.

    With H = 1 − 11ᵀ/n: H (Σ_a K[:, a, :, a]) H, divided by the mean of its diagonal. Centering
    takes out the constant that prompted kernels mostly are, the division LoRA's arbitrary scale.
    """
    values = np.einsum("iaja->ij", kernel.values)
    values = values - values.mean(0, keepdims=True)
    values = values - values.mean(1, keepdims=True)
    mean = float(np.trace(values)) / len(values)
    return values / mean if mean > 0 else values


def contrast(kernel: Kernel) -> float:
    """Return how far the `heatmap` is higher within labels than between them, in their spread.

    (mean within − mean between) / standard deviation of the entries around these two means, the
    diagonal left out; 0 where there is one label only, or none.
    """
    labels, values = kernel.left_labels, heatmap(kernel)
    if labels is None:
        return 0.0
    same = labels[:, None] == labels[None, :]
    within, between = values[same & ~np.eye(len(labels), dtype=bool)], values[~same]
    if not within.size or not between.size:
        return 0.0
    residuals = np.concatenate([within - within.mean(), between - between.mean()])
    spread = float(residuals.std())
    return float(within.mean() - between.mean()) / spread if spread > 0 else 0.0


def spectrum(kernel: Kernel) -> Floats:
    """Return the eigenvalues of the centered kernel ``[n·c, n·c]``, descending, over their sum.

    Centered over the examples, logit by logit. That makes c eigenvalues 0; they are left out, as
    are those within rounding of 0. Of a kernel that is not symmetric, the singular values.
    """
    n, c, _, _ = kernel.shape
    values = kernel.values - kernel.values.mean(0, keepdims=True)
    values = values - values.mean(2, keepdims=True)
    matrix = values.reshape(n * c, n * c)
    if kernel.is_symmetric:
        found = np.linalg.eigvalsh(matrix)[::-1]
    else:
        found = np.linalg.svd(matrix, compute_uv=False)
    shares = found[: (n - 1) * c] / found[: (n - 1) * c].sum()
    return np.asarray(shares[shares > 1e-9])  # captured in float32: below that is rounding


def effective_directions(shares: Floats) -> float:
    """Return exp(−Σ p ln p) of a `spectrum` p: how many equal eigenvalues would be as spread."""
    return float(np.exp(-np.sum(shares * np.log(shares))))
