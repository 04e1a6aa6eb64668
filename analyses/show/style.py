"""How every figure of the project looks: one theme, one palette, direct labels.

Colors are close to Okabe and Ito's (2008, "Color universal design"), which people with any common
color vision can tell apart, and dark enough for text on white; markers and dashes differ too, so
that a line is known in gray. Ordered things (ranks, kernel values) take colors of steadily growing
lightness. Figures are 4.8 inches wide: a phone shows their 9-10 point text at a readable size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import matplotlib as mpl
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

WIDTH = 4.8  # inches
INK = "#1f2328"
MUTED = "#5c636b"
KERNEL_CMAP = (
    "cividis"  # lightness grows steadily: the same picture in gray, and for the color-blind
)

_COLORS = ("#0072B2", "#D55E00", "#00805C", "#A8457F", "#6B5B00", "#1f2328")
_MARKERS = ("o", "s", "^", "D", "v", "P")
GLYPHS = dict(zip(_MARKERS, "●■▲◆▼✚", strict=True))  # the markers, as text for labels
_DASHES: tuple[Any, ...] = (
    "-",
    (0, (5, 1.5)),
    (0, (1.5, 1.2)),
    (0, (6, 1.5, 1.5, 1.5)),
    (0, (3, 1)),
    "-",
)

_RC: Any = {
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.labelsize": 10,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "figure.constrained_layout.use": True,
    "figure.dpi": 100,
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same figure on every machine
    "font.size": 10,
    "grid.color": "#e6e8eb",
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.8,
    "lines.markersize": 5.5,
    "pdf.fonttype": 42,
    "savefig.facecolor": "white",
    "text.color": INK,
    "xtick.color": MUTED,
    "xtick.labelcolor": INK,
    "xtick.labelsize": 9,
    "ytick.color": MUTED,
    "ytick.labelcolor": INK,
    "ytick.labelsize": 9,
}


class Stroke(NamedTuple):
    """How one line is drawn; no two lines of a panel share any of the three."""

    color: str
    marker: str
    dash: Any


@contextmanager
def figure_style() -> Iterator[None]:
    """Apply the project's theme to the figures made inside, whatever settings are in force."""
    with sns.axes_style("ticks", {"axes.grid": True}), mpl.rc_context(_RC):
        yield


def subplots(rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, Any]:
    """Return a figure and its axes as `matplotlib.pyplot.subplots` does, kept by nobody else.

    pyplot holds on to every figure until it is closed; a library's caller should not have to.
    """
    size = options.pop("figsize", (WIDTH, WIDTH / 1.5))
    figure = Figure(figsize=size)
    return figure, figure.subplots(rows, columns, **options)


def strokes(count: int) -> list[Stroke]:
    """Return ``count`` strokes, at most 6: more lines in one panel than that cannot be read."""
    if not 0 <= count <= len(_COLORS):
        raise ValueError(f"a panel holds at most {len(_COLORS)} lines, not {count}")
    return [Stroke(*each) for each in list(zip(_COLORS, _MARKERS, _DASHES, strict=True))[:count]]


def rank_colors(count: int) -> list[str]:
    """Return ``count`` colors from dark to light, none of them too pale for text on white."""
    cmap = mpl.colormaps["viridis"]
    return [to_hex(cmap(0.05 + 0.48 * i / max(count - 1, 1))) for i in range(count)]


def rank_axis(axes: Axes, ranks: Sequence[int], *, room: float = 0.0) -> None:
    """Give ``axes`` a log2 axis with one tick a rank.

    ``room`` is the share of the axis's length, on the right, to leave free for direct labels.
    """
    low, high = min(ranks), max(ranks)
    span = max(high / low, 2.0)
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(ranks), [str(rank) for rank in ranks])
    axes.minorticks_off()
    axes.set_xlim(low / span**0.06, high * span ** (0.06 + room / (1 - room)))
    axes.grid(visible=False, axis="x")
    axes.spines.bottom.set_bounds(low / span**0.06, high * span**0.06)


def settle(figure: Figure) -> None:
    """Lay the figure out once and for all: what is added later moves nothing."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
