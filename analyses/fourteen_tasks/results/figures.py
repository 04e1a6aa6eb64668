"""The figures of a study: which there are, what they need, which can be drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from matplotlib.figure import Figure

from ...show.page import Caption
from . import captions
from .draw_scatter import (
    kernel_against_finetuning,
    panel_data,
    signgd_against_adam,
)
from .draw_subspaces import (
    FAMILIES,
    curves_data,
    preservation,
    preservation_data,
    sizes,
)
from .draw_tasks import (
    fixed_features,
    fixed_features_data,
    linearization_bars,
    linearization_data,
    prompting,
    prompting_data,
)
from .read import Study
from .summary import pairs
from .verdict import Thresholds, limits


@dataclass(frozen=True)
class Drawable:
    """A figure.

    Attributes:
        name: its file name without suffix.
        needs: the cells it is drawn from, for those who lack them.
        has: whether a study has them.
        draw: draws it.
        caption: says what it shows.
    """

    name: str
    needs: str
    has: Callable[[Study], bool]
    draw: Callable[[Study], Figure]
    caption: Callable[[Study], Caption]


def drawables(thresholds: Thresholds) -> tuple[Drawable, ...]:
    """Return every figure in the order of the story."""

    def moved(study: Study) -> Figure:
        return fixed_features(study, limits(thresholds))

    return (
        Drawable(
            "kernel-vs-finetuning",
            "kernel-* and finetune-* of the same task, shots and head",
            lambda study: bool(panel_data(study, study.heads[0])),
            kernel_against_finetuning,
            captions.kernel_against_finetuning,
        ),
        Drawable(
            "signgd-vs-adam",
            "finetune-signgd and finetune-adam of the same task, shots and head",
            partial(_has_pair, "finetune-adam", "finetune-signgd"),
            signgd_against_adam,
            captions.signgd_against_adam,
        ),
        Drawable(
            "prompting",
            "a kernel or fine-tuning under both heads, prompt and linear",
            lambda study: bool(prompting_data(study)),
            prompting,
            captions.prompting,
        ),
        Drawable(
            "linearization",
            "linearized, with zero-shot and the fine-tuning it is of",
            lambda study: bool(linearization_data(study)),
            linearization_bars,
            captions.linearization,
        ),
        Drawable(
            "fixed-features",
            "features of fine-tuned models",
            lambda study: not fixed_features_data(study).empty,
            moved,
            captions.fixed_features,
        ),
        Drawable(
            "subspace-kernels",
            "kernel-lora or kernel-random",
            lambda study: bool(set(preservation_data(study)["method"]) & set(FAMILIES)),
            preservation,
            captions.preservation,
        ),
        Drawable(
            "subspace-sizes",
            "kernel-lora of several ranks or kernel-random of several dimensions",
            lambda study: bool(curves_data(study)),
            sizes,
            captions.sizes,
        ),
    )


def _has_pair(first: str, second: str, study: Study) -> bool:
    return not pairs(study, first, second, head=study.heads[0]).empty
