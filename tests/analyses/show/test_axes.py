"""The shapes that all figures share: what is drawn is what was given, and labels never overlap."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from matplotlib.collections import FillBetweenPolyCollection, LineCollection, PathCollection
from matplotlib.text import Text

from analyses.engine.pooling import Pooled
from analyses.show import axes, style


def pooled(mean: float, half: float = 0.05) -> Pooled:
    return Pooled(mean, mean - half, mean + half, 3, "data seeds")


def test_a_curve_shows_means_and_its_band_ends_where_values_can_be() -> None:
    _, where = style.subplots()
    line = {1: pooled(0.5), 2: pooled(0.98), 4: 0.7}
    end = axes.curve(where, line, style.strokes(1)[0], label="LoRA")
    assert end == (4.0, 0.7, "● LoRA", style.strokes(1)[0].color)
    [drawn] = where.lines
    assert list(drawn.get_xdata()) == [1, 2, 4]
    assert list(drawn.get_ydata()) == [0.5, 0.98, 0.7]
    [band] = [each for each in where.collections if isinstance(each, FillBetweenPolyCollection)]
    assert band.get_paths()[0].get_extents().y1 == 1.0
    axes.curve(where, {4: pooled(0.2)}, style.strokes(2)[1])
    assert any(isinstance(each, LineCollection) for each in where.collections)


def test_points_stand_where_they_are_told_with_bars_where_there_are_intervals() -> None:
    _, where = style.subplots()
    axes.points(where, [pooled(0.5), 0.25], [0, -1], color="black", filled=False)
    [bars] = [each for each in where.collections if isinstance(each, LineCollection)]
    [bar] = bars.get_segments()
    assert list(bar[:, 0]) == [0.45, 0.55]
    [marks] = [each for each in where.collections if isinstance(each, PathCollection)]
    assert np.array_equal(marks.get_offsets(), [(0.5, 0), (0.25, -1)])


@pytest.mark.parametrize("room", [1.0, 0.3])
def test_labels_at_line_ends_never_overlap_and_keep_their_order(room: float) -> None:
    with style.figure_style():
        figure, where = style.subplots(figsize=(4, 3 * room))
        where.set(xlim=(0, 2), ylim=(0, 1))
        style.settle(figure)
        heights = (0.5, 0.51, 0.49, 0.99, 0.02, 0.5)
        wanted = [
            axes.Label(1, y, f"line {y}" + "\nof two" * (i == 1), "black")
            for i, y in enumerate(heights)
        ]
        axes.label_ends(where, wanted)
    boxes = sorted((text.get_window_extent() for text in where.texts), key=lambda box: box.y0)
    assert all(low.y1 <= high.y0 + 1 for low, high in pairwise(boxes))
    by_height = sorted(where.texts, key=lambda text: text.get_window_extent().y0)
    assert [text.xy[1] for text in by_height] == sorted(heights)  # type: ignore[attr-defined]
    if room == 1.0:
        assert all(where.bbox.y0 <= box.y0 + 2 and box.y1 - 2 <= where.bbox.y1 for box in boxes)


def test_names_beside_points_hide_neither_each_other_nor_a_point() -> None:
    places = [(0.5 + 0.02 * i, 0.5 + 0.01 * (i % 3)) for i in range(8)]

    def named() -> list[Text]:
        with style.figure_style():
            figure, where = style.subplots()
            where.set(xlim=(0, 1), ylim=(0, 1))
            style.settle(figure)
            axes.label_points(
                where, [axes.Label(x, y, f"name {x:.2f}", "black") for x, y in places], places
            )
        assert where.get_xlim() == where.get_ylim() == (0, 1)
        return list(where.texts)

    texts = named()
    boxes = [text.get_window_extent() for text in texts]
    assert len(boxes) == 8
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    pixels = texts[0].axes.transData.transform(places)  # type: ignore[union-attr]
    assert not any(box.contains(x, y) for box in boxes for x, y in pixels)
    assert [text.get_position() for text in texts] == [text.get_position() for text in named()]
