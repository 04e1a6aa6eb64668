"""Proof of a recommendation: fine-tune what the kernels judged, and set the two side by side.

A finished run directory gets::

    verification/            every fine-tuning, by how it was trained, data seed, configuration,
                             learning rate and batch size
    verification.parquet     predicted and trained numbers, and how they were trained (in its
                             attributes); see :mod:`analyses.verify.table`

Fine-tunings are kept one by one, so that an interrupted verification goes on where it stopped, and
more draws, learning rates or batch sizes train only what is new.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from subkern.errors import UserError
from subkern.storage.files import only_run
from subkern.storage.progress import Progress
from subkern.storage.provenance import fingerprint, normalize

from .. import study
from ..engine.code_identity import code_identity
from ..engine.inputs import Inputs
from ..engine.run_folder import (
    FIGURE_FOLDER,
    PREDICTIONS,
    REPORT,
    VERIFICATION,
    Results,
    RunDirectory,
)
from ..engine.settings import Settings
from ..study import Drawing, Outcome
from .numbers import ASKED, asked_of, is_verified
from .train import train_all
from .trial import Candidate, Trial

__all__ = ["Trial", "prove"]


def prove(
    directory: RunDirectory,
    config: Settings,
    inputs: Inputs,
    trial: Trial,
    *,
    candidates: Callable[[Results], Sequence[Candidate]],
    drawing: Drawing,
    progress: Progress | None,
    command: str | None,
) -> Outcome:
    """Fine-tune the candidates of a finished study, and draw its figures and report again.

    Args:
        directory: the run directory.
        config: the study's settings.
        inputs: what they were resolved to.
        trial: how to train.
        candidates: what to train.
        drawing: what is drawn.
        progress: called with configurations done and in all.
        command: what the report says makes it again; the call of the study's ``verify`` if None.

    Raises:
        UserError: the study is not finished, or anything else that the user can put right.
    """
    trial.check_draws(config)
    with only_run(directory.path):
        if directory.state() != "done":
            raise UserError(
                f"the study in '{directory.path}' is unfinished: run its analysis first"
            )
        results = Results.load(directory.path)
        if PREDICTIONS not in results.beside:
            raise UserError(f"'{directory.path}' lacks its predictions: --overwrite computes them")
        chosen = candidates(results)
        asked = normalize(
            {
                "trial": trial.describe(config.rule),
                "configurations": [[each.name, each.draw] for each in chosen],
                "code": code_identity(study.load, train_all),
            }
        )
        done = is_verified(results) and asked_of(results) == asked
        if not done:
            folder = directory.path / VERIFICATION / _folder_name(trial, config.rule)
            model = study.load(config, inputs)
            found = train_all(results, model, inputs, trial, chosen, folder, progress)
            found.attrs[ASKED] = asked
            _forget_drawing(directory)
            directory.add(VERIFICATION, found)
            call = f"Config(**{config.as_dict()!r}), {str(directory.path)!r}, {trial!r}"
            directory.rewrite(
                config.as_dict(), command or f"analyses.{directory.analysis}.verify({call})"
            )
            results = Results.load(directory.path)
        if done and study.is_drawn(directory.path, results, drawing):
            return Outcome(results, directory.path / REPORT, up_to_date=True)
        return Outcome(results, study.draw(results, directory.path, drawing), up_to_date=done)


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
