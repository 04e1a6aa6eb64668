"""Numbers in words."""

from __future__ import annotations

import pytest

from analyses.show import numbers as fmt


@pytest.mark.parametrize(
    ("drop", "said"),
    [(0.008, "0.8 points lower"), (-0.02, "2.0 points higher"), (-0.0004, "no difference")],
)
def test_a_drop_says_its_direction(drop: float, said: str) -> None:
    assert fmt.lower_by(drop) == said


def test_a_noun_follows_its_number() -> None:
    assert [fmt.counted(n, "data seed") for n in (1, 3)] == ["1 data seed", "3 data seeds"]
