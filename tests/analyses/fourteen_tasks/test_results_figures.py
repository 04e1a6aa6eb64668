"""The paper's figures: what they show, whether grey tells it too, and what is left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from analyses.fourteen_tasks.results import draw_scatter as paper_scatter
from analyses.fourteen_tasks.results import draw_tasks as paper_task_figures
from analyses.fourteen_tasks.results.behavior import fewest_shots, linearization
from analyses.fourteen_tasks.results.captions import rank_correlation
from analyses.fourteen_tasks.results.draw_subspaces import preservation_data
from analyses.fourteen_tasks.results.figures import Drawable, drawables
from analyses.fourteen_tasks.results.read import Study, load
from analyses.fourteen_tasks.results.summary import mean_scores, pairs
from analyses.fourteen_tasks.results.verdict import Thresholds, limits
from subkern.tasks.catalogue import TASKS
from tests.support import fake_study

ALL = (
    "kernel-vs-finetuning", "signgd-vs-adam", "prompting", "linearization", "fixed-features",
    "subspace-kernels", "subspace-sizes",
)  # fmt: skip


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return load(fake_study.write(tmp_path_factory.mktemp("study")))


@pytest.fixture(scope="module")
def figures(study: Study) -> dict[str, Figure]:
    return {each.name: each.draw(study) for each in drawables(Thresholds())}


def without(folder: Path, *methods: str, **options: object) -> Study:
    """Return a study that never ran these methods."""
    found = fake_study.table(**options)  # type: ignore[arg-type]
    return load(fake_study.write(folder / "study", found[~found["method"].isin(methods)]))


def points(axes: Axes) -> np.ndarray:
    """Return the positions [n, 2] of all markers of a panel, without lines."""
    found = [line.get_xydata() for line in axes.lines if line.get_marker() not in ("None", "")]
    return np.concatenate([np.asarray(each) for each in found])


def names(axes: Axes) -> list[str]:
    return [label.get_text() for label in axes.get_yticklabels()]


def named(name: str) -> Drawable:
    return next(each for each in drawables(Thresholds()) if each.name == name)


def legend(figure: Figure) -> list[str]:
    (found,) = figure.legends
    return [text.get_text() for text in found.texts]


def test_kernel_against_finetuning(study: Study, figures: dict[str, Figure]) -> None:
    figure = figures["kernel-vs-finetuning"]
    sgd, adam, signgd = figure.axes
    assert (sgd.get_xlabel(), sgd.get_ylabel()) == (
        "SGD-FT, test score (%)", "SGD kernel, test score (%)",
    )  # fmt: skip
    assert (adam.get_xlabel(), adam.get_ylabel()) == (
        "Adam-FT, test score (%)", "Kernel, test score (%)",
    )  # fmt: skip
    assert len(points(sgd)) == 28  # tasks x shots
    assert len(points(adam)) == 3 * 28
    assert (signgd.get_xlabel(), signgd.get_ylabel()) == (
        "SignGD-FT, test score (%)", "SignGD kernel, test score (%)",
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
    expected = pairs(study, "finetune-sgd", "kernel-sgd", head="prompt")
    drawn = points(sgd)
    assert np.sort(drawn[:, 0]) == pytest.approx(np.sort(expected["x"]))
    assert np.sort(drawn[:, 1]) == pytest.approx(np.sort(expected["y"]))


def test_scatter_labels_are_tasks_beside_their_points(
    study: Study, figures: dict[str, Figure]
) -> None:
    figure = figures["kernel-vs-finetuning"]
    axes = figure.axes[0]
    shown = pairs(study, "finetune-sgd", "kernel-sgd", head="prompt")
    assert 3 <= len(axes.texts) <= 7
    boxes = [text.get_window_extent() for text in axes.texts]
    for i, text in enumerate(axes.texts):
        assert text.get_text() in TASKS
        own = shown[shown["task"] == text.get_text()][["x", "y"]].to_numpy()
        assert tuple(text.xy) in {tuple(each) for each in own}  # type: ignore[attr-defined]
        assert not any(boxes[i].overlaps(other) for other in boxes[i + 1 :])


def test_signgd_against_adam(figures: dict[str, Figure]) -> None:
    (axes,) = figures["signgd-vs-adam"].axes
    assert axes.get_xlabel() == "Adam-FT, test score (%)"
    assert axes.get_ylabel() == "SignGD-FT, test score (%)"
    assert len(points(axes)) == 28


def test_prompting(figures: dict[str, Figure]) -> None:
    figure = figures["prompting"]
    kernel, tuned = figure.axes
    assert [axes.get_title(loc="left") for axes in (kernel, tuned)] == ["SGD kernel", "SGD-FT"]
    assert names(kernel)[0] == "SST-2"
    assert names(kernel)[-1] == "QQP (F1)"
    assert kernel.get_yticks()[0] == 13  # the first task on top
    assert len(points(kernel)) == 2 * 14
    assert figure.get_supxlabel() == "Test score (%), 16 shots"
    assert legend(figure) == ["prompt", "linear head"]


def test_linearization_bars_begin_at_zero_and_say_the_share(
    study: Study, figures: dict[str, Figure]
) -> None:
    figure = figures["linearization"]
    assert legend(figure) == ["start", "linearized", "fine-tuned"]
    sgd = figure.axes[0]
    assert len(sgd.patches) == 3 * 14
    assert {bar.get_x() for bar in sgd.patches} == {0.0}  # type: ignore[attr-defined]
    assert sgd.get_xlim() == (0, 1)
    rows = linearization(study).query("k == 16 and head == 'prompt' and optimizer == 'sgd'")
    shares = {text.get_text() for text in sgd.texts}
    assert {f"{100 * share:.0f}" for share in rows["share"]} <= shares


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
    found = load(fake_study.write(tmp_path / "s", fake_study.tidy(rows)))
    (row,) = linearization(found).itertuples()
    assert (row.zero, row.linear, row.tuned, row.seeds) == pytest.approx((0.55, 0.75, 0.85, 2))
    assert row.share == pytest.approx(0.2 / 0.3)


def test_fixed_features_and_their_limits(study: Study) -> None:
    figure = paper_task_figures.fixed_features(study, limits(Thresholds(cka=0.77)))
    change, cka = figure.axes
    assert (change.get_xlabel(), cka.get_xlabel()) == ("0: unchanged", "1: unchanged")
    assert legend(figure) == ["SGD-FT", "Adam-FT", "limit"]
    for axes, limit in ((change, 1.0), (cka, 0.77)):
        assert len(points(axes)) == 2 * 14
        assert limit in {np.asarray(line.get_xdata())[0] for line in axes.lines}
    assert change.get_xlim()[0] == 0
    assert cka.get_xlim()[1] > 1
    assert legend(paper_task_figures.fixed_features(study)) == ["SGD-FT", "Adam-FT"]


def test_subspace_kernels_show_the_largest_size(study: Study, figures: dict[str, Figure]) -> None:
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
    found = preservation_data(load(fake_study.write(tmp_path / "s", fake_study.tidy(rows))))
    assert found.set_index("method")["mean"].to_dict() == {"kernel-sgd": 0.7, "kernel-lora": 0.6}
    assert found["task"].unique().tolist() == ["SST-2"]


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


def test_markers_differ_where_colours_do(figures: dict[str, Figure]) -> None:
    """In grey, and to the colour-blind, shape or fill tells what colour tells others."""
    for name, figure in figures.items():
        for axes in figure.axes:
            looks: dict[tuple[object, ...], set[str]] = {}
            for line in axes.lines:
                if line.get_marker() in ("None", ""):
                    continue
                fill = str(line.get_markerfacecolor()) == "white"
                looks.setdefault((line.get_marker(), fill), set()).add(
                    str(line.get_markeredgecolor())
                )
            assert all(len(colors) == 1 for colors in looks.values()), name


def test_bars_differ_in_lightness(figures: dict[str, Figure]) -> None:
    figure = figures["linearization"]
    fills = {tuple(to_rgb(bar.get_facecolor())) for bar in figure.axes[0].patches}
    light = sorted(0.299 * r + 0.587 * g + 0.114 * b for r, g, b in fills)
    hatched = {bar.get_hatch() for bar in figure.axes[0].patches}
    assert len(hatched) == 2
    assert light[1] - light[0] > 0.3  # the fine-tuned bar is far darker than the other two


def test_every_figure_has_a_caption_with_numbers(study: Study) -> None:
    every = drawables(Thresholds())
    assert tuple(each.name for each in every) == ALL
    for each in every:
        assert each.has(study)
        caption = each.caption(study)
        assert any(letter.isdigit() for letter in caption.text)
        assert "nan" not in caption.text
        assert caption.alt


@pytest.mark.parametrize(
    ("left_out", "options", "gone"),
    [
        (("finetune-signgd",), {}, {"signgd-vs-adam"}),
        ((), {"heads": ("prompt",)}, {"prompting"}),
        ((), {"behaviour": False}, {"linearization", "fixed-features"}),
        (("kernel-lora", "kernel-random"), {}, {"subspace-kernels", "subspace-sizes"}),
        (
            ("finetune-sgd", "finetune-adam", "finetune-signgd"),
            {"behaviour": False},
            {"kernel-vs-finetuning", "signgd-vs-adam", "linearization", "fixed-features"},
        ),
    ],
)
def test_what_cannot_be_drawn(
    tmp_path: Path, left_out: tuple[str, ...], options: dict[str, object], gone: set[str]
) -> None:
    small = {"tasks": ("SST-2", "RTE"), "shots": (16,), "seeds": (13,), **options}
    found = without(tmp_path, *left_out, **small)
    assert {each.name for each in drawables(Thresholds()) if not each.has(found)} == gone
    for each in drawables(Thresholds()):
        if each.has(found):
            assert "nan" not in each.caption(found).text


def test_one_task_and_seed_is_enough_to_draw(tmp_path: Path) -> None:
    found = without(tmp_path, tasks=("RTE",), shots=(16,), seeds=(13,))
    for each in drawables(Thresholds()):
        assert each.draw(found).axes
        assert "nan" not in each.caption(found).text


def test_one_seed_draws_no_bars_of_error(tmp_path: Path) -> None:
    found = without(tmp_path, tasks=("SST-2", "RTE", "mr"), shots=(16,), seeds=(13,))
    axes = paper_scatter.kernel_against_finetuning(found).axes[0]
    ends = [
        np.ptp(np.asarray(segment), axis=0).max()
        for lines in axes.collections
        if isinstance(lines, LineCollection)
        for segment in lines.get_segments()
    ]
    assert max(ends) == 0


def test_the_shots_of_a_figure_are_those_with_most_rows(study: Study) -> None:
    rows = pairs(study, "finetune-sgd", "kernel-sgd", head="prompt")
    assert fewest_shots(rows) == 16
    assert fewest_shots(rows[~((rows["k"] == 16) & (rows["task"] == "mr"))]) == 64


def test_rank_correlation_needs_three_different_points(study: Study) -> None:
    rows = pairs(study, "finetune-sgd", "kernel-sgd", head="prompt")
    assert rank_correlation(rows) > 0.9
    assert np.isnan(rank_correlation(rows.iloc[:2]))
    assert np.isnan(rank_correlation(rows.assign(x=0.5)))
    assert rank_correlation(rows.assign(y=-rows["x"])) == pytest.approx(-1)


def test_the_limits_of_features_are_in_the_drawing() -> None:
    assert limits(Thresholds())["cka with start"] == Thresholds().cka
    assert named("fixed-features").needs == "features of fine-tuned models"
