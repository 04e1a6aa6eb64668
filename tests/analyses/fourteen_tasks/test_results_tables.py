"""The paper's tables from a study's long table: numbers, marks, dashes, formats."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analyses.fourteen_tasks.results import tables as paper_tables
from analyses.fourteen_tasks.results.read import SavedStudy, load
from analyses.fourteen_tasks.results.summary import compare
from analyses.fourteen_tasks.results.verdict import verdicts
from analyses.show.table import DASH, Table, write
from subkern.errors import UserError
from subkern.kernel_behavior import Thresholds
from tests.support import fake_study
from tests.support.fake_study import score


def study(tmp_path: Path, rows: list[dict[str, Any]] | pd.DataFrame) -> SavedStudy:
    table = rows if isinstance(rows, pd.DataFrame) else fake_study.tidy(rows)
    return load(fake_study.write(tmp_path / "study", table))


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> SavedStudy:
    return load(fake_study.write(tmp_path_factory.mktemp("full")))


def cell(grid: Table, label: str, column: str, block: str = "16") -> str:
    (row,) = [row for row in grid.rows if list(row[:2]) == [label, block]]
    return row[list(grid.header).index(column)]


def behavior(of: SavedStudy, thresholds: Thresholds | None = None) -> Table:
    asked = thresholds or Thresholds()
    return paper_tables.behavior_table(of, verdicts(of, asked), asked)


SEEDS = ((13, 0.80), (21, 0.84), (42, 0.88))


def test_mean_and_sample_standard_deviation_over_seeds(tmp_path: Path) -> None:
    rows = [score("kernel-sgd", value, data_seed=seed) for seed, value in SEEDS]
    grid = paper_tables.accuracy(study(tmp_path, rows), "prompt")
    assert grid is not None
    assert cell(grid, "SGD kernel", "SST-2") == "84.0 (4.0)"
    assert grid.frame is not None
    frame = grid.frame.iloc[0]
    assert (frame["mean"], frame["sd"], frame["seeds"]) == pytest.approx((0.84, 0.04, 3))


def test_one_seed_has_no_deviation(tmp_path: Path) -> None:
    grid = paper_tables.accuracy(study(tmp_path, [score("kernel-sgd", 0.8)]), "prompt")
    assert grid is not None
    assert cell(grid, "SGD kernel", "SST-2") == "80.0"
    assert grid.frame is not None
    assert math.isnan(grid.frame["sd"].item())
    assert "One data seed" in grid.note


def test_best_of_kernels_and_best_of_finetuning_are_marked_with_ties(tmp_path: Path) -> None:
    values = {
        "zero-shot": 0.99, "finetune-sgd": 0.90, "finetune-adam": 0.9004, "finetune-signgd": 0.85,
        "kernel-sgd": 0.70, "kernel-signgd": 0.75, "kernel-asymmetric_signgd": 0.72,
    }  # fmt: skip
    found = study(tmp_path, [score(method, value) for method, value in values.items()])
    grid = paper_tables.accuracy(found, "prompt")
    assert grid is not None
    marked = {row[0] for i, row in enumerate(grid.rows) if (i, 2) in grid.best}
    assert marked == {"SGD-FT", "Adam-FT", "SignGD kernel"}  # 90.0 and 90.0 are the same to readers
    assert grid.frame is not None
    best = set(grid.frame.loc[grid.frame["best"], "method"])
    assert best == {"finetune-sgd", "finetune-adam", "kernel-signgd"}


def test_the_only_one_of_its_kind_is_no_best(tmp_path: Path) -> None:
    found = study(tmp_path, [score("kernel-sgd", 0.7), score("finetune-sgd", 0.9)])
    grid = paper_tables.accuracy(found, "prompt")
    assert grid is not None
    assert not grid.best


def test_missing_cells_are_dashes_and_counted_and_few_seeds_are_said(tmp_path: Path) -> None:
    rows = [score("kernel-sgd", v, data_seed=s, task=t) for s, v in SEEDS for t in ("SST-2", "RTE")]
    rows += [score("finetune-sgd", v, data_seed=s) for s, v in SEEDS[:2]]
    grid = paper_tables.accuracy(study(tmp_path, rows), "prompt")
    assert grid is not None
    assert cell(grid, "SGD-FT", "RTE") == DASH
    assert grid.missing == 1
    assert "A dash: no result (1 in all)" in grid.note
    assert cell(grid, "SGD-FT", "SST-2") == "82.0 (2.8) [2]"
    assert "[n]: over n only" in grid.note


def test_dev_chooses_the_solver_of_each_run_never_test(tmp_path: Path) -> None:
    rows = []
    for seed, dev, test in ((13, (0.9, 0.8), (0.6, 0.7)), (21, (0.7, 0.8), (0.6, 0.4))):
        for solver, d, t in zip(("ridge", "svc"), dev, test, strict=True):
            one = {"data_seed": seed, "solver": solver, "cell": f"{seed}/{solver}"}
            rows += [score("kernel-sgd", d, split="dev", **one), score("kernel-sgd", t, **one)]
    found = study(tmp_path, rows).scores.sort_values("data_seed")
    assert found["value"].tolist() == [0.6, 0.4]
    assert found["solver"].tolist() == ["ridge", "svc"]


def test_the_standard_solver_counts_where_dev_ties(tmp_path: Path) -> None:
    rows = []
    for solver, test in (("svc", 0.9), ("logistic", 0.5)):
        rows += [score("kernel-sgd", 0.8, split="dev", solver=solver)]
        rows += [score("kernel-sgd", test, solver=solver)]
    assert study(tmp_path, rows).scores["value"].tolist() == [0.5]


def test_draws_of_a_subspace_are_one_method_and_its_sizes_are_several(tmp_path: Path) -> None:
    drawn = (8, 0, 13, 0.7), (8, 1, 13, 0.8), (8, 0, 21, 0.85), (1, 0, 13, 0.6)
    rows = [
        score("kernel-lora", value, subspace=f"lora:r={r},seed={seed}", data_seed=data)
        for r, seed, data, value in drawn
    ]
    grid = paper_tables.subspaces(study(tmp_path, rows), "prompt")
    assert grid is not None
    assert [row[0] for row in grid.rows] == ["LoRA kernel r=1", "LoRA kernel r=8"]
    # mean of 0.75 and 0.85: draws of one split are averaged before seeds are
    assert cell(grid, "LoRA kernel r=8", "SST-2") == "80.0 (7.1)"


def test_a_grid_whose_best_is_at_its_edge_is_marked(tmp_path: Path) -> None:
    rows = [score("finetune-sgd", 0.9, task=task, subspace="full") for task in ("SST-2", "RTE")]
    edge = {"metric": "grid edge", "split": None, "subspace": "full"}
    rows += [score("finetune-sgd", 0.0, task="RTE", **edge)]
    rows += [score("finetune-sgd", -1.0, task="SST-2", **edge)]
    grid = paper_tables.accuracy(study(tmp_path, rows), "prompt")
    assert grid is not None
    assert list(grid.rows[0][2:]) == ["90.0†", "90.0"]
    assert "†: in some seed the best learning rate was at the edge" in grid.note
    check_latex(grid.as_latex())


def test_f1_tasks_show_f1(tmp_path: Path) -> None:
    rows = [score("kernel-sgd", 0.4, task="MRPC", metric="accuracy"),
            score("kernel-sgd", 0.6, task="MRPC", metric="f1"),
            score("kernel-sgd", 0.7, task="mine")]  # fmt: skip
    grid = paper_tables.accuracy(study(tmp_path, rows), "prompt")
    assert grid is not None
    assert grid.header[2:] == ["MRPC (F1)", "mine"]
    assert list(grid.rows[0][2:]) == ["60.0", "70.0"]
    assert [name for name, _ in grid.groups] == ["Sentence pairs", "Other tasks"]


def test_rows_and_columns_are_in_the_papers_order(full: SavedStudy) -> None:
    grid = paper_tables.accuracy(full, "prompt")
    assert grid is not None
    assert grid.header[2:5] == ["SST-2", "sst-5", "mr"]
    assert grid.header[-2:] == ["MRPC (F1)", "QQP (F1)"]
    parts = dict(grid.parts)
    assert [len(rows) for rows in parts.values()] == [9, 9]
    assert [grid.rows[i][0] for i in parts["64"]] == [
        "Zero-shot", "Linear probe", "SGD-FT", "SGD kernel", "Adam-FT", "SignGD-FT",
        "SignGD kernel", "A-SignGD kernel", "Adam kernel",
    ]  # fmt: skip


def test_a_probe_of_another_head_is_another_probe(tmp_path: Path) -> None:
    """It is fitted on the hidden state that the head reads."""
    rows = [score("kernel-sgd", 0.8), score("linear-probe", 0.7, head="linear")]
    grid = paper_tables.accuracy(study(tmp_path, rows), "prompt")
    assert grid is not None
    assert [row[0] for row in grid.rows] == ["SGD kernel"]


def test_every_table_of_the_study(full: SavedStudy) -> None:
    names = [grid.name for grid in paper_tables.score_tables(full)]
    assert names == [
        "accuracy-prompt", "accuracy-linear", "subspaces-prompt", "subspaces-linear",
        "preservation-prompt", "preservation-linear", "prompting",
    ]  # fmt: skip
    grid = paper_tables.prompting(full)
    assert grid is not None
    assert [row[0] for row in grid.rows[:2]] == ["SGD-FT, prompt", "SGD-FT, linear head"]


def test_pairs_are_over_the_seeds_that_both_have(tmp_path: Path) -> None:
    rows = [score("kernel-sgd", v, data_seed=s) for s, v in SEEDS]
    rows += [score("finetune-sgd", 0.9, data_seed=s) for s in (13, 21)]
    both = compare(study(tmp_path, rows).scores, "finetune-sgd", "kernel-sgd")
    assert both is not None
    found = both.points.iloc[0]
    assert (found["x"], found["y"], found["seeds"]) == pytest.approx((0.9, 0.82, 2))


# --- verdicts ---

SIGNS = {"linearized accuracy": 0.84, "relative change": 0.3, "cka with start": 0.95}


def behaving(**changes: float) -> list[dict[str, Any]]:
    """Return the rows of one task: 50 -> 90 by fine-tuning, the kernel at 86."""
    values: dict[str, float] = {**SIGNS, "kernel": 0.86, **changes}
    rows = [score("zero-shot", 0.5), score("finetune-sgd", 0.9)]
    rows += [score("kernel-sgd", values.pop("kernel"))]
    for metric, value in values.items():
        method = "linearized" if "linear" in metric else "features"
        split = "test" if "linear" in metric else "train"
        rows.append(score(method, value, metric=metric, optimizer="sgd", split=split))
    return rows


@pytest.mark.parametrize(
    ("changes", "answer", "reason"),
    [
        ({}, "yes", "all three signs"),
        ({"kernel": 0.8}, "partly", "not: kernel"),  # 75 % of the gain
        ({"linearized accuracy": 0.65}, "partly", "not: linearization"),
        ({"cka with start": 0.5}, "partly", "not: features"),
        ({"relative change": 3.0}, "partly", "not: features"),
        (
            {"kernel": 0.6, "linearized accuracy": 0.55, "cka with start": 0.2},
            "no",
            "not: kernel, linearization and features",
        ),
    ],
)
def test_verdict(tmp_path: Path, changes: dict[str, float], answer: str, reason: str) -> None:
    (found,) = verdicts(study(tmp_path, behaving(**changes)))
    assert (found.answer, found.reason) == (answer, reason)


def test_verdict_where_training_gains_nothing(tmp_path: Path) -> None:
    rows = [row for row in behaving() if row["method"] != "zero-shot"]
    (found,) = verdicts(study(tmp_path, [*rows, score("zero-shot", 0.89)]))
    assert (found.answer, found.reason) == ("undecided", "training gained too little")


def test_dev_chooses_the_kernel_of_the_verdict(tmp_path: Path) -> None:
    rows = [score("zero-shot", 0.5), score("finetune-adam", 0.9)]
    for kernel, dev, test in (("signgd", 0.6, 0.95), ("asymmetric_signgd", 0.8, 0.7)):
        rows += [
            score(f"kernel-{kernel}", value, split=split)
            for split, value in (("dev", dev), ("test", test))
        ]
    (found,) = verdicts(study(tmp_path, rows))
    assert (found.kernel, found.evidence.kernel) == ("kernel-asymmetric_signgd", 0.7)


@pytest.mark.parametrize(
    ("left", "reason"),
    [
        ("linearized", "not measured: linearization"),
        ("features", "not measured: features"),
        ("kernel-sgd", "not measured: kernel"),
    ],
)
def test_what_is_not_measured_leaves_the_verdict_open(
    tmp_path: Path, left: str, reason: str
) -> None:
    rows = [row for row in behaving() if row["method"] != left]
    (found,) = verdicts(study(tmp_path, rows))
    assert (found.answer, found.reason) == ("open", reason)


def test_one_measure_of_features_is_enough(tmp_path: Path) -> None:
    for metric in ("relative change", "cka with start"):
        rows = [row for row in behaving() if row["metric"] != metric]
        (found,) = verdicts(study(tmp_path / metric, rows))
        assert found.answer == "yes"


def test_a_linear_head_starts_from_the_probe(tmp_path: Path) -> None:
    rows = [row for row in behaving() if row["method"] != "zero-shot"]
    rows.append(score("linear-probe", 0.7))
    linear = [{**row, "head": "linear", "cell": f"{row['cell']} linear"} for row in rows]
    (found,) = verdicts(study(tmp_path, linear))
    assert found.evidence.zero_shot == 0.7
    assert found.share == pytest.approx(0.7)  # (0.84 - 0.7) / (0.9 - 0.7)
    (other,) = verdicts(study(tmp_path / "x", rows))  # a prompt starts from zero-shot alone
    assert math.isnan(other.evidence.zero_shot)
    assert (other.answer, other.reason) == ("open", "not measured: start")


def test_a_random_linear_head_does_not_start_from_the_probe(tmp_path: Path) -> None:
    rows = [row for row in behaving() if row["method"] != "zero-shot"]
    rows = [{**row, "head": "linear"} for row in [*rows, score("linear-probe", 0.7)]]
    found = study(tmp_path, rows)
    (other,) = verdicts(replace(found, config=found.config.changed(head_init="random")))
    assert (other.answer, other.reason) == ("open", "not measured: start")


def test_a_verdict_is_over_the_seeds_that_have_everything(tmp_path: Path) -> None:
    """Else splits do not cancel: here seed 21 alone has the kernel solve the task."""
    rows = behaving(kernel=0.7)
    rows += [score("zero-shot", 0.5, data_seed=21), score("finetune-sgd", 0.9, data_seed=21)]
    rows.append(score("kernel-sgd", 1.0, data_seed=21))
    (found,) = verdicts(study(tmp_path, rows))
    assert (found.answer, found.evidence.kernel) == ("partly", 0.7)
    moved = score("features", 0.99, metric="cka with start", optimizer="sgd", split="train")
    few = [row for row in rows if row["method"] != "features"]
    few += [{**moved, "data_seed": seed, "cell": f"f{seed}"} for seed in (42, 87)]
    (other,) = verdicts(study(tmp_path / "x", few))  # features of seeds that were not trained
    assert (other.answer, other.reason) == ("open", "not: kernel; not measured: features")
    assert (other.evidence.kernel, other.evidence.linearized) == (0.7, 0.84)


def test_thresholds_are_parameters(tmp_path: Path) -> None:
    found = study(tmp_path, behaving())
    strict = Thresholds(kernel_share=0.95, recovered=0.99, cka=0.99)
    assert verdicts(found, strict)[0].answer == "no"
    grid = behavior(found, strict)
    assert "reaches 95\N{NO-BREAK SPACE}%" in grid.note
    assert list(grid.rows[0][2:]) == [
        "no", "not: kernel, linearization and features", "SGD kernel", "50.0", "86.0", "84.0",
        "90.0", "85", "0.30", "0.95", "1",
    ]  # fmt: skip
    assert grid.frame is not None
    assert grid.frame["solves"].tolist() == [False]


def test_a_verdict_says_what_it_rests_on(tmp_path: Path) -> None:
    """The mark of a grid that was too narrow, how many seeds, and whose features they are."""
    quiet = behavior(study(tmp_path / "quiet", behaving()))
    assert "†" not in quiet.note
    rows = [*behaving(), score("finetune-sgd", 1.0, metric="grid edge", split=None)]
    grid = behavior(study(tmp_path, rows))
    shown = dict(zip(grid.header, grid.rows[0], strict=True))
    assert (shown["Fine-tuned"], shown["Kernel score"]) == ("90.0†", "86.0")
    assert (shown["CKA with the start"], shown["Data seeds"]) == ("0.95", "1")
    assert "†: in some seed the best learning rate was at the edge of its grid." in grid.note
    assert "through the SGD kernel, whatever the optimizer" in grid.note


# --- how they are written ---


def tabulars(latex: str) -> list[tuple[int, list[str]]]:
    """Return (columns, lines with cells) of every tabular."""
    found = []
    for spec, body in re.findall(
        r"\\begin\{tabular\}\{(l[lr]*)\}\n(.*?)\\end\{tabular\}", latex, re.DOTALL
    ):
        found.append((len(spec), [line for line in body.splitlines() if line.endswith(r"\\")]))
    return found


def width(line: str) -> int:
    """Return the columns that a line fills."""
    cells = re.split(r"(?<!\\)&", line)
    spans = [re.match(r"\s*\\multicolumn\{(\d+)\}", cell) for cell in cells]
    return sum(int(span[1]) if span else 1 for span in spans)


def check_latex(latex: str) -> None:
    """Assert what a run of LaTeX would: balanced, escaped, every row as wide as its table."""
    bare = re.sub(r"^%.*$", "", latex, flags=re.MULTILINE)
    plain = re.sub(r"\\[\\{}&%$#_]", "", bare)
    assert plain.count("{") == plain.count("}")
    opened = re.findall(r"\\begin\{(\w+\*?)\}", bare)
    assert sorted(opened) == sorted(re.findall(r"\\end\{(\w+\*?)\}", bare))
    assert plain.count("$") % 2 == 0
    assert not re.search(r"[#%]|(?<!\\)~\^", plain)
    outside = re.sub(r"\$[^$]*\$|\\label\{[^}]*\}", "", plain)
    assert "_" not in outside
    assert "^" not in outside
    for rule in ("toprule", "midrule", "bottomrule"):
        assert rf"\{rule}" in bare
    tables = tabulars(bare)
    assert tables
    for columns, lines in tables:
        assert {width(line) for line in lines} == {columns}


def test_latex_is_valid_and_marks_the_best(full: SavedStudy) -> None:
    for grid in [*paper_tables.score_tables(full), behavior(full)]:
        latex = grid.as_latex()
        check_latex(latex)
        assert latex.isprintable() or all(c == "\n" or c.isprintable() for c in latex)
        assert len(re.findall(r"\\textbf\{[^}]*\} ?(?:\{\\scriptsize|&|\\\\)", latex)) == len(
            grid.best
        )
    prompt = paper_tables.accuracy(full, "prompt")
    assert prompt is not None
    latex = prompt.as_latex()
    assert [columns for columns, _ in tabulars(latex)] == [9, 7]  # 8 single sentences, 6 pairs
    assert r"ag\_news" in latex


def test_latex_escapes_everything() -> None:
    hard = r"a_b & 50% $x$ #1 {y} ~z ^2 \q <c> – −"
    rows = [[hard, hard, hard, DASH]]
    grid = Table(hard, hard, [hard, hard, hard, "b"], rows, best={(0, 2)}, name="x", blocks=True)
    check_latex(grid.as_latex())
    assert r"\textbackslash{}q" in grid.as_latex()


def test_the_latex_check_does_see_faults(full: SavedStudy) -> None:
    grid = paper_tables.accuracy(full, "prompt")
    assert grid is not None
    latex = grid.as_latex()
    for broken in (
        latex.replace(r"ag\_news", "ag_news"),
        latex.replace(r"\bottomrule", "}"),
        latex.replace("91.2", "91.2 & 3"),
        latex.replace(r"\end{table*}", ""),
    ):
        assert broken != latex
        with pytest.raises(AssertionError):
            check_latex(broken)


def test_markdown_rows_have_the_headers_width_and_bold_marks(full: SavedStudy) -> None:
    for grid in [*paper_tables.score_tables(full), behavior(full)]:
        text = grid.as_markdown()
        for part in re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE):
            assert len({len(re.split(r"(?<!\\)\|", line)) for line in part.splitlines()}) == 1
        assert len(re.findall(r"\| \*\*[^|]*\*\* (?=\|)", text)) == len(grid.best)
        assert grid.note in text


def test_the_page_has_a_part_for_new_shots_and_verdicts_apart(full: SavedStudy) -> None:
    grid = paper_tables.accuracy(full, "prompt")
    assert grid is not None
    assert grid.split() == [grid]
    assert grid.header[:3] == ["Method", "Shots", "SST-2"]
    assert grid.sections == {9}
    verdict = behavior(full)
    parts = verdict.split()
    assert parts[0].title == "Verdict per task: prompt, SGD-FT, 16 shots"
    assert len(parts) == 12  # heads, optimizers, shots
    assert sum(len(part.best) for part in parts) == len(verdict.best)
    for part in parts:
        assert part.header[:2] == ["Task", "Verdict"]
        assert all(part.rows[i][j] == "yes" for i, j in part.best)
    assert [bool(part.note) for part in parts] == [True] + [False] * 11


def test_tables_are_written_in_the_formats_asked_for(full: SavedStudy, tmp_path: Path) -> None:
    grids = paper_tables.score_tables(full)[:1]
    written = write(grids, tmp_path, ["md", "parquet", "json"])
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in written}
    assert [path.name for path in written] == [
        "accuracy-prompt.md", "accuracy-prompt.parquet", "accuracy-prompt.json",
    ]  # fmt: skip
    pd.testing.assert_frame_equal(pd.read_parquet(written[1]), grids[0].frame, check_dtype=False)
    told = json.loads(written[2].read_text())
    assert [list(row.values()) for row in told["rows"]] == grids[0].rows
    assert told["title"] == "Kernels and fine-tuning, prompt"


def test_an_unknown_format_is_refused_before_anything_is_written(
    full: SavedStudy, tmp_path: Path
) -> None:
    with pytest.raises(
        UserError, match="unknown table format 'docx': use md, latex, parquet, json"
    ):
        write(paper_tables.score_tables(full), tmp_path, ["md", "docx"])
    assert not list(tmp_path.iterdir())


def test_a_table_checks_its_shape() -> None:
    good = Table("", "", ["a", "b"], [["r", "1"]], groups=[("", [1])])
    with pytest.raises(ValueError, match="2 cells under 3 headings"):
        replace(good, header=["a", "b", "c"])
    with pytest.raises(ValueError, match="once each"):
        replace(good, groups=[("", [1, 1])])
