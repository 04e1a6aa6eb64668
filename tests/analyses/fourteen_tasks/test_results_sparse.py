"""A study that has only begun: whatever is done can be drawn, what is not is said."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from analyses.fourteen_tasks.results import page as paper
from analyses.fourteen_tasks.results.findings import find
from analyses.fourteen_tasks.results.read import load
from analyses.fourteen_tasks.results.tables import tables
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
    told = find(load(fake_study.write(tmp_path / "study", found)))
    made = tables(told.study, told.verdicts, told.thresholds)
    for table in made:
        assert table.as_markdown()
        assert table.as_latex()
        assert table.as_json()
        assert table.split()
    left_out = [each for each in paper.FIGURES if not each.has(told)]
    pictures = {each.name: b"" for each in paper.FIGURES if each.has(told)}
    html = paper.page(told, made, left_out, pictures)
    assert not re.search(
        r"\b(nan|None)\b", re.sub(r"<table>.*?</table>", "", html, flags=re.DOTALL)
    )
    assert len(left_out) == html.count("No figure")


@pytest.mark.parametrize("method", sorted({*TABLE["method"]}))
def test_one_method_alone(tmp_path: Path, method: str) -> None:
    found = TABLE[(TABLE["method"] == method) & (TABLE["task"] == "RTE")]
    report = paper.draw(fake_study.write(tmp_path / "study", found), formats=("md",))
    assert "No figure" in report.read_text(encoding="utf-8")
