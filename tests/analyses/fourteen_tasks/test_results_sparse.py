"""A study that has only begun: whatever is done can be drawn, what is not is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from analyses.fourteen_tasks.results import drawing as paper
from analyses.fourteen_tasks.results.figures import drawables
from analyses.fourteen_tasks.results.page import page
from analyses.fourteen_tasks.results.read import load
from analyses.fourteen_tasks.results.render import as_html, as_latex, as_markdown
from analyses.fourteen_tasks.results.verdict import Thresholds
from tests.support import fake_study

TABLE = fake_study.table(tasks=("SST-2", "RTE", "MRPC"), seeds=(13, 21))


@pytest.mark.parametrize("seed", range(12))
def test_any_part_of_a_study_gives_tables_and_a_page(tmp_path: Path, seed: int) -> None:
    """Cells are kept at random, from nearly none to nearly all."""
    rng = np.random.default_rng(seed)
    cells = TABLE["cell"].unique()
    kept = rng.choice(cells, size=max(1, round(len(cells) * 3.0 ** -(seed / 2))), replace=False)
    found = TABLE[TABLE["cell"].isin(kept)]
    if seed % 3 == 0:
        found = found[found["split"] != "test"]  # not one test score
    if found.empty:
        pytest.skip("nothing is left")
    study = load(fake_study.write(tmp_path / "study", found))
    thresholds = Thresholds()
    grids = paper.tables(study, thresholds)
    for grid in grids:
        assert as_markdown(grid)
        assert as_latex(grid)
        assert as_html(grid)
    every = drawables(thresholds)
    shown = [each for each in every if each.has(study)]
    left_out = [each for each in every if each not in shown]
    pictures = {each.name: b"" for each in shown}
    made = page(study, grids, shown, left_out, pictures, thresholds)
    said = " ".join([made.answer, *made.caveats, *made.reading, *made.facts.values()])
    said += " ".join(image.caption.text for image in made.images)
    assert "nan" not in said
    assert len(left_out) == sum("No figure" in caveat for caveat in made.caveats)


@pytest.mark.parametrize("method", sorted({*TABLE["method"]}))
def test_one_method_alone(tmp_path: Path, method: str) -> None:
    found = TABLE[(TABLE["method"] == method) & (TABLE["task"] == "RTE")]
    report = paper.draw(fake_study.write(tmp_path / "study", found), formats=("md",))
    assert "No figure" in report.read_text(encoding="utf-8")
