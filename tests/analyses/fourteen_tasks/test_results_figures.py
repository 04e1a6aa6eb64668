"""The paper's figures: what they show, whether gray tells it too, and what is left out."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from analyses.fourteen_tasks.results.draw_scatter import scatter
from analyses.fourteen_tasks.results.draw_tasks import fixed_features
from analyses.fourteen_tasks.results.findings import Findings, find, find_preservation
from analyses.fourteen_tasks.results.page import FIGURES, page
from analyses.fourteen_tasks.results.read import SavedStudy, load
from analyses.fourteen_tasks.results.summary import commonest_shots, compare
from analyses.fourteen_tasks.results.tables import mean_scores
from subkern.kernel_behavior import Thresholds
from subkern.tasks.catalogue import TASKS
from tests.support import fake_study

ALL = (
    "kernel-vs-finetuning", "signgd-vs-adam", "prompting", "linearization", "fixed-features",
    "subspace-kernels", "subspace-sizes",
)  # fmt: skip


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> SavedStudy:
    return load(fake_study.write(tmp_path_factory.mktemp("study")))


@pytest.fixture(scope="module")
def found(study: SavedStudy) -> Findings:
    return find(study)


@pytest.fixture(scope="module")
def figures(found: Findings) -> dict[str, Figure]:
    return {each.name: each.draw(found) for each in FIGURES}


def without(folder: Path, *methods: str, **options: object) -> Findings:
    """Return what a study found that never ran these methods."""
    table = fake_study.table(**options)  # type: ignore[arg-type]
    table = table[~table["method"].isin(methods)]
    return find(load(fake_study.write(folder / "study", table)))


def points(axes: Axes) -> np.ndarray:
    """Return the positions [n, 2] of all markers of a panel, without lines."""
    found = [line.get_xydata() for line in axes.lines if line.get_marker() not in ("None", "")]
    found += [each.get_offsets() for each in axes.collections if isinstance(each, PathCollection)]
    return np.concatenate([np.asarray(each) for each in found])


def names(axes: Axes) -> list[str]:
    return [label.get_text() for label in axes.get_yticklabels()]


def legend(figure: Figure) -> list[str]:
    (found,) = figure.legends
    return [text.get_text() for text in found.texts]


def test_kernel_against_finetuning(found: Findings, figures: dict[str, Figure]) -> None:
    figure = figures["kernel-vs-finetuning"]
    sgd, adam, signgd = figure.axes
    assert (sgd.get_xlabel(), sgd.get_ylabel()) == (
        "SGD-FT, test score", "SGD kernel, test score",
    )  # fmt: skip
    assert (adam.get_xlabel(), adam.get_ylabel()) == (
        "Adam-FT, test score", "Kernel, test score",
    )  # fmt: skip
    assert len(points(sgd)) == 28  # tasks x shots
    assert len(points(adam)) == 3 * 28
    assert (signgd.get_xlabel(), signgd.get_ylabel()) == (
        "SignGD-FT, test score", "SignGD kernel, test score",
    )  # fmt: skip
    assert len(points(signgd)) == 28
    for axes in (sgd, adam, signgd):
        assert axes.get_xlim() == axes.get_ylim()
        diagonal = np.asarray(axes.lines[0].get_xydata())
        assert (diagonal[:, 0] == diagonal[:, 1]).all()
        assert tuple(diagonal[:, 0]) == axes.get_xlim()
        inside = points(axes)
        assert inside.min() > axes.get_xlim()[0]
        assert inside.max() < axes.get_xlim()[1]
    expected = found.panels[0][0].points
    drawn = points(sgd)
    assert np.sort(drawn[:, 0]) == pytest.approx(np.sort(expected["x"]))
    assert np.sort(drawn[:, 1]) == pytest.approx(np.sort(expected["y"]))


def test_scatter_labels_are_tasks_beside_their_points(
    found: Findings, figures: dict[str, Figure]
) -> None:
    for axes, panel in zip(figures["kernel-vs-finetuning"].axes, found.panels, strict=True):
        assert 3 <= len(axes.texts) <= 7
        marks = axes.transData.transform(points(axes))
        boxes = [text.get_window_extent() for text in axes.texts]
        for i, text in enumerate(axes.texts):
            assert text.get_text() in TASKS
            own = pd.concat([each.points for each in panel]).query("task == @text.get_text()")
            near = np.abs(axes.transData.transform(own[["x", "y"]]) - _nearest(boxes[i], own, axes))
            assert near.max(axis=1).min() < 12  # pixels
            assert not any(boxes[i].overlaps(other) for other in boxes[i + 1 :])
            assert not any(boxes[i].contains(*mark) for mark in marks)


def _nearest(box: Bbox, own: pd.DataFrame, axes: Axes) -> np.ndarray:
    """Return the points of a label that are nearest to marks [n, 2], in pixels."""
    return np.clip(axes.transData.transform(own[["x", "y"]]), box.min, box.max)


def test_signgd_against_adam(figures: dict[str, Figure]) -> None:
    (axes,) = figures["signgd-vs-adam"].axes
    assert axes.get_xlabel() == "Adam-FT, test score"
    assert axes.get_ylabel() == "SignGD-FT, test score"
    assert len(points(axes)) == 28


def test_prompting(figures: dict[str, Figure]) -> None:
    figure = figures["prompting"]
    kernel, tuned = figure.axes
    assert [axes.get_title(loc="left") for axes in (kernel, tuned)] == ["SGD kernel", "SGD-FT"]
    assert names(kernel)[0] == "SST-2"
    assert names(kernel)[-1] == "QQP (F1)"
    assert kernel.yaxis_inverted()  # the first task on top
    assert len(points(kernel)) == 2 * 14
    assert figure.get_supxlabel() == "Test score (%), 16 shots"
    assert legend(figure) == ["prompt", "linear head"]


def test_linearization_bars_begin_at_zero_and_say_the_share(
    found: Findings, figures: dict[str, Figure]
) -> None:
    figure = figures["linearization"]
    assert legend(figure) == ["start", "linearized", "fine-tuned"]
    sgd = figure.axes[0]
    assert len(sgd.patches) == 3 * 14
    assert {bar.get_x() for bar in sgd.patches} == {0.0}  # type: ignore[attr-defined]
    assert sgd.get_xlim() == (0, 1)
    assert found.linearization is not None
    assert found.linearization.k == 16
    shares = found.linearization.parts[0].shares
    assert len(shares) == 14
    assert {f"{100 * share:.0f}" for share in shares.values()} <= {t.get_text() for t in sgd.texts}


def test_linearization_numbers_by_hand(tmp_path: Path) -> None:
    rows = [
        fake_study.score(method, value, data_seed=seed, metric=metric, optimizer=optimizer)
        for method, metric, optimizer, values in (
            ("zero-shot", "accuracy", None, (0.5, 0.6, 0.7)),
            ("finetune-sgd", "accuracy", "sgd", (0.9, 0.8, 0.7)),
            ("linearized", "linearized accuracy", "sgd", (0.7, 0.8)),
        )
        for seed, value in zip((13, 21, 42), values, strict=False)
    ]
    found = find(load(fake_study.write(tmp_path / "s", fake_study.tidy(rows))))
    assert found.linearization is not None
    (part,) = found.linearization.parts
    means = part.rows.groupby("stage")["value"].mean()
    assert means.to_dict() == pytest.approx({"zero": 0.55, "linear": 0.75, "tuned": 0.85})
    assert part.shares["SST-2"] == pytest.approx(0.2 / 0.3)  # of the means, over two seeds
    assert (part.median, part.half, part.tasks) == (part.shares["SST-2"], 1, 1)


def test_fixed_features_and_their_limits(study: SavedStudy) -> None:
    shown = find(study, Thresholds(cka=0.77)).features
    assert shown is not None
    figure = fixed_features(study, shown)
    change, cka = figure.axes
    assert (change.get_xlabel(), cka.get_xlabel()) == ("0: unchanged", "1: unchanged")
    assert legend(figure) == ["SGD-FT", "Adam-FT", "limit"]
    for axes, limit in ((change, 1.0), (cka, 0.77)):
        assert len(points(axes)) == 2 * 14
        assert limit in {np.asarray(line.get_xdata())[0] for line in axes.lines}
    assert -0.1 < change.get_xlim()[0] < 0
    assert cka.get_xlim()[1] > 1


def test_subspace_kernels_show_the_largest_size(
    study: SavedStudy, figures: dict[str, Figure]
) -> None:
    figure = figures["subspace-kernels"]
    score, cka = figure.axes
    assert legend(figure) == ["SGD kernel", "LoRA kernel r=32", "Random kernel d=1000"]
    assert len(points(score)) == 3 * 14
    assert len(points(cka)) == 2 * 14
    means = mean_scores(study)
    lora = means.query("method == 'kernel-lora' and subspace == 'lora:r=32' and head == 'prompt'")
    drawn = {round(float(x), 9) for x in points(score)[:, 0]}
    assert {round(x, 9) for x in lora.query("k == 16")["mean"]} <= drawn


def test_the_full_kernel_stands_beside_subspaces_over_their_seeds(tmp_path: Path) -> None:
    rows = [fake_study.score("kernel-sgd", v, data_seed=s) for s, v in ((13, 0.7), (21, 0.9))]
    rows += [
        fake_study.score("kernel-sgd", 0.5, task="RTE"),
        fake_study.score("kernel-lora", 0.6, subspace="lora:r=8"),
    ]
    found = find_preservation(load(fake_study.write(tmp_path / "s", fake_study.tidy(rows))))
    assert found is not None
    values = found.rows.set_index("method")["value"]
    assert values.to_dict() == {"kernel-sgd": 0.7, "kernel-lora": 0.6}
    assert found.rows["task"].unique().tolist() == ["SST-2"]
    assert found.parts[0].lost == pytest.approx(-0.1)


def test_subspace_sizes(figures: dict[str, Figure]) -> None:
    figure = figures["subspace-sizes"]
    assert len(figure.axes) == 4
    lora = figure.axes[0]
    assert lora.get_xscale() == "log"
    assert lora.get_xticks().tolist() == [1, 8, 32]
    median = next(line for line in lora.lines if line.get_linewidth() > 2)
    assert np.asarray(median.get_xdata()).tolist() == [1, 8, 32]
    assert sum(line.get_linewidth() < 1 for line in lora.lines) == 14
    assert figure.axes[3].get_xlabel() == "Random: dimension, 16 shots"


def test_markers_differ_where_colors_do(figures: dict[str, Figure]) -> None:
    """In gray, and to the color-blind, shape or fill tells what color tells others."""
    for name, figure in figures.items():
        for axes in figure.axes:
            looks: dict[tuple[object, ...], set[str]] = {}
            for line in axes.lines:
                if line.get_marker() not in ("None", ""):
                    fill = str(line.get_markerfacecolor()) == "white"
                    edge = str(line.get_markeredgecolor())
                    looks.setdefault((line.get_marker(), fill), set()).add(edge)
            for marks in axes.collections:
                if isinstance(marks, PathCollection):
                    shape = marks.get_paths()[0].vertices.tobytes()
                    looks.setdefault((shape,), set()).add(to_hex(marks.get_edgecolor()[0]))
            assert all(len(colors) == 1 for colors in looks.values()), name


def test_bars_differ_in_lightness(figures: dict[str, Figure]) -> None:
    figure = figures["linearization"]
    fills = {tuple(to_rgb(bar.get_facecolor())) for bar in figure.axes[0].patches}
    light = sorted(0.299 * r + 0.587 * g + 0.114 * b for r, g, b in fills)
    hatched = {bar.get_hatch() for bar in figure.axes[0].patches}
    assert len(hatched) == 2
    assert light[1] - light[0] > 0.3  # the fine-tuned bar is far darker than the other two


def captions(found: Findings) -> dict[str, str]:
    """Return the captions of the figures that can be drawn, as the page says them."""
    drawn = {each.name: b"" for each in FIGURES if each.has(found)}
    html = page(found, [], [], drawn)
    said = re.findall(r'<figure id="([\w-]+)">.*?<figcaption>(.*?)</figcaption>', html, re.DOTALL)
    assert len(said) == len(drawn) == html.count("<img ")
    assert 'alt=""' not in html
    return dict(said)


def test_every_figure_has_a_caption_with_numbers(found: Findings) -> None:
    said = captions(found)
    assert tuple(said) == ALL
    for text in said.values():
        assert any(letter.isdigit() for letter in text)
        assert not re.search(r"\b(nan|None)\b", text)


@pytest.mark.parametrize(
    ("left_out", "options", "gone"),
    [
        (("finetune-signgd",), {}, {"signgd-vs-adam"}),
        ((), {"heads": ("prompt",)}, {"prompting"}),
        ((), {"behavior": False}, {"linearization", "fixed-features"}),
        (("kernel-lora", "kernel-random"), {}, {"subspace-kernels", "subspace-sizes"}),
        (
            ("finetune-sgd", "finetune-adam", "finetune-signgd"),
            {"behavior": False},
            {"kernel-vs-finetuning", "signgd-vs-adam", "linearization", "fixed-features"},
        ),
    ],
)
def test_what_cannot_be_drawn(
    tmp_path: Path, left_out: tuple[str, ...], options: dict[str, object], gone: set[str]
) -> None:
    small = {"tasks": ("SST-2", "RTE"), "shots": (16,), "seeds": (13,), **options}
    found = without(tmp_path, *left_out, **small)
    assert {each.name for each in FIGURES if not each.has(found)} == gone
    assert all("nan" not in text for text in captions(found).values())


def test_one_task_and_seed_is_enough_to_draw(tmp_path: Path) -> None:
    found = without(tmp_path, tasks=("RTE",), shots=(16,), seeds=(13,))
    for each in FIGURES:
        assert each.draw(found).axes
    assert all("nan" not in text for text in captions(found).values())


def test_one_seed_draws_no_bars_of_error(tmp_path: Path) -> None:
    found = without(tmp_path, tasks=("SST-2", "RTE", "mr"), shots=(16,), seeds=(13,))
    axes = scatter(found.study, found.panels).axes[0]
    ends = [
        np.ptp(np.asarray(segment), axis=0).max()
        for lines in axes.collections
        if isinstance(lines, LineCollection)
        for segment in lines.get_segments()
    ]
    assert max(ends) == 0


def test_the_shots_of_a_figure_are_those_with_most_rows(found: Findings) -> None:
    rows = found.panels[0][0].points
    assert commonest_shots(rows) == 16
    assert commonest_shots(rows[~((rows["k"] == 16) & (rows["task"] == "mr"))]) == 64


def test_rank_correlation_needs_three_different_points(study: SavedStudy) -> None:
    scores = study.scores[study.scores["head"] == "prompt"]

    def rho(rows: pd.DataFrame) -> float | None:
        both = compare(rows, "finetune-sgd", "kernel-sgd")
        assert both is not None
        assert both.ranked == (both.rho is not None)
        return both.rho

    whole = rho(scores)
    assert whole is not None
    assert whole > 0.9
    kernel = scores["method"] == "kernel-sgd"
    assert rho(scores[scores["task"].isin(("RTE",))]) is None
    assert rho(scores.assign(value=scores["value"].where(~kernel, 0.5))) is None
    turned = pd.concat(
        [
            scores[scores["method"] == "finetune-sgd"],
            scores[scores["method"] == "finetune-sgd"].assign(
                method="kernel-sgd", value=lambda rows: 1 - rows["value"]
            ),
        ]
    )
    assert rho(turned) == pytest.approx(-1)


def test_every_figure_says_what_it_needs() -> None:
    needs = {each.name: each.needs for each in FIGURES}
    assert needs["fixed-features"] == "features of fine-tuned models"
    assert all(needs.values())
