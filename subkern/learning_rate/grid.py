"""Learning rates for a grid search, suggested for each batch size and kept with the search."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from subkern.errors import DamagedError
from subkern.learning_rate.measure import suggest
from subkern.storage.checksums import AGAIN
from subkern.storage.files import keep_json, read_json
from subkern.training.grid_search import SUGGESTED, TrainingGrid

if TYPE_CHECKING:
    from subkern.learning_rate.measure import Examples
    from subkern.models.logit_model import LogitModel
    from subkern.subspaces.base import Subspace
    from subkern.training.settings import Training

__all__ = ["stored_suggestions", "suggested_grid"]


def suggested_grid(
    model: LogitModel,
    examples: Examples,
    *,
    subspace: Subspace | str,
    training: Training,
    batch_sizes: Sequence[int] = (8,),
    folder: Path | None = None,
) -> TrainingGrid:
    """The three rates of `suggest` for each batch size: ``search(…, grid=partial(…))``.

    Args:
        model: f at θ₀.
        examples: the training examples.
        subspace: what is trained.
        training: optimizer, steps, loss, ε and seed; learning rate and batch size do not matter.
        batch_sizes: of the grid.
        folder: of the search; what was suggested there once is taken again, so that a search goes
            on with the rates it began with.

    Raises:
        NoSuggestion: see `suggest`.
        DamagedError: what was kept is damaged.
    """
    known = {} if folder is None else stored_suggestions(folder)
    for size in batch_sizes:
        if size not in known:
            known[size] = suggest(
                model,
                examples,
                subspace=subspace,
                optimizer=training.optimizer,
                batch_size=size,
                steps=training.steps,
                loss=training.loss,
                epsilon=training.epsilon,
                seed=training.seed,
            ).as_dict()
            if folder is not None:
                kept = {str(each): found for each, found in known.items()}
                keep_json(folder / SUGGESTED, {"batch_sizes": kept})
    return TrainingGrid({size: tuple(known[size]["grid"]) for size in batch_sizes}, batch_sizes)


def stored_suggestions(folder: Path) -> dict[int, dict[str, Any]]:
    """Batch size → `Suggestion.as_dict` of what `suggested_grid` kept in a search's folder.

    Raises:
        DamagedError: it is not what was written.
    """
    path = folder / SUGGESTED
    if not path.exists():
        return {}
    try:
        found = read_json(path)["batch_sizes"]
        return {
            int(size): {**each, "grid": [*map(float, each["grid"])]} for size, each in found.items()
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, DamagedError):
            raise
        raise DamagedError(f"'{path}' is damaged ({error}): {AGAIN}") from error
