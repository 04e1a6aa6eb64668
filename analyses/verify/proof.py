"""Proof of a recommendation: fine-tune what the kernels judged, and set the two side by side.

A finished run directory gets::

    verification/            every fine-tuning, by how it was trained, data seed, configuration,
                             learning rate and batch size
    verification.parquet     predicted and trained numbers, and how they were trained (in its
                             attributes); see :mod:`analyses.verify.train`

Fine-tunings are kept one by one, so that an interrupted verification goes on where it stopped, and
more draws, learning rates or batch sizes train only what is new.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.figure import Figure
from rich.console import Group

from subkern.errors import UserError
from subkern.models.logit_model import LogitModel
from subkern.storage.progress import Progress
from subkern.storage.provenance import fingerprint, normalize
from subkern.training.grid_search import Search

from ..engine.code_identity import code_identity
from ..engine.inputs import Inputs
from ..engine.parts import load
from ..engine.predictions import lookup
from ..engine.run_folder import (
    FIGURE_FOLDER,
    PREDICTIONS,
    REPORT,
    VERIFICATION,
    Results,
    RunDirectory,
)
from ..engine.settings import Settings
from ..show.page import Proof
from . import page
from .figure import predicted_against_trained
from .findings import ASKED, asked_of, is_compared, is_verified, judge
from .train import train_all
from .trial import Advice, Candidate, Trial

__all__ = ["is_compared", "is_verified"]


def figure(results: Results, advice: Advice) -> Figure:
    """Return predicted scores against trained ones."""
    return predicted_against_trained(judge(results, advice))


def shown(results: Results, advice: Advice) -> Proof:
    """Return what the study's report says of what training made of its advice."""
    return page.shown(judge(results, advice))


def summary(results: Results, advice: Advice) -> Group:
    """Return table, verdict and limits for a terminal of 80 columns."""
    return page.summary(judge(results, advice))


def as_json(results: Results, advice: Advice) -> dict[str, Any]:
    """Return the verification as plain values; what is no number may stand as NaN."""
    return page.as_json(judge(results, advice))


def prove(
    directory: RunDirectory,
    config: Settings,
    inputs: Inputs,
    trial: Trial,
    *,
    candidates: Callable[[Results], Sequence[Candidate]],
    model: Callable[[], LogitModel],
    search: Callable[..., Search],
    progress: Progress | None,
    command: str,
) -> tuple[Results, bool]:
    """Fine-tune the candidates of a finished study; its drawing is then out of date and removed.

    Args:
        directory: the run directory.
        config: the study's settings.
        inputs: what they were resolved to.
        trial: how to train.
        candidates: what to train.
        model: loads the model.
        search: trains, as `subkern.training.grid_search.search`.
        progress: called with configurations done and in all.
        command: what the report says makes it again.

    Returns:
        The results with the verification, and whether it was there already.

    Raises:
        UserError: the study is not finished, or anything else that the user can put right.
    """
    if directory.state() != "done":
        raise UserError(f"the study in '{directory.path}' is unfinished: run its analysis first")
    results = Results.load(directory.path)
    if PREDICTIONS not in results.beside:
        raise UserError(f"'{directory.path}' lacks its predictions: --overwrite computes them")
    chosen = candidates(results)
    asked = normalize(
        {
            "trial": trial.describe(config.rule),
            "configurations": [[each.name, each.draw] for each in chosen],
            "code": code_identity(load, train_all),
        }
    )
    if is_verified(results) and asked_of(results) == asked:
        return results, True
    folder = directory.path / VERIFICATION / _folder_name(trial, config.rule)
    predictions = lookup(results.beside[PREDICTIONS])
    found = train_all(
        config, predictions, model(), inputs, trial, chosen, folder, progress, search=search
    )
    found.attrs[ASKED] = asked
    _forget_drawing(directory)
    directory.add(VERIFICATION, found)
    directory.rewrite(config.as_dict(), command)
    return Results.load(directory.path), False


def _folder_name(trial: Trial, rule: str) -> str:
    """Return where fine-tunings of the same kind are kept.

    Learning rate and batch size stand at `Training`'s own: searches below the folder grow in them.
    """
    return fingerprint(trial.training(rule).describe())[:8]


def _forget_drawing(directory: RunDirectory) -> None:
    """Remove what shows a former verification: if this one is killed before it is drawn, too."""
    pictures = (directory.path / FIGURE_FOLDER).glob(f"{VERIFICATION}.*")
    for path in (directory.path / REPORT, *pictures):
        path.unlink(missing_ok=True)
