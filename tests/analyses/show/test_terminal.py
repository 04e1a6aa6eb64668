"""Tables in a terminal of 80 columns."""

from __future__ import annotations

import pandas as pd
import pytest

from analyses.show.terminal import show
from subkern.agreement.metrics import METRICS


def shown(table: pd.DataFrame, capsys: pytest.CaptureFixture[str], **how: bool) -> list[str]:
    show(table, False, **how)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    return lines


def test_no_metric_is_broken(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    numbers = {"value": -1.2345e-101, "low": 1.2345e14, "high": 1.2345e14, "reference": 0.33333}
    lines = shown(pd.DataFrame([{"metric": name, **numbers} for name in METRICS]), capsys)
    for name in METRICS:
        assert sum(line.split()[:1] == [name] for line in lines) == 1


def test_one_row_is_a_list_unless_it_is_one_of_many(capsys: pytest.CaptureFixture[str]) -> None:
    table = pd.DataFrame([{"rate": 0.1, "batch": 8}])
    assert len(shown(table, capsys)) == 6
    assert len(shown(table, capsys, listed=False)) == 5
