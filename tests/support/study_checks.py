"""What every study's run directory, summary and report must do: shared by the studies' tests."""

from __future__ import annotations

import html
import io
import re
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from analyses import study
from analyses.engine.run_folder import Results
from analyses.engine.settings import Settings
from analyses.study import Outcome, Study
from subkern.errors import UserError
from tests.support.browser import Browser, chromium
from tests.support.folders import names as names_in

Analyze = Callable[..., Outcome]


def check_written(
    found: Outcome, figures: Iterable[str], kernels: int, files: Iterable[str] = ()
) -> None:
    """A new study leaves all of its files and nothing else."""
    out = found.report.parent
    assert not found.up_to_date
    beside = {f"{name}.parquet" for name in found.results.beside} | (
        {"kernels"} if kernels else set()
    )
    assert all((out / name).is_file() for name in files)
    assert names_in(out) == beside | {Path(name).parts[0] for name in files} | {
        "config.yaml", "environment.json", "results.parquet", "figures", "report.html",
    }  # fmt: skip
    names = {f"{name}.{kind}" for name in figures for kind in ("png", "pdf")}
    assert names_in(out / "figures") == names
    assert len(found.results.kernels) == kernels


def check_up_to_date(
    analyze: Analyze, settings: Settings, found: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same command neither loads a model nor writes."""
    out = found.report.parent
    monkeypatch.setattr(study, "load_model", None)
    written = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    again = analyze(settings, out)
    assert again.up_to_date
    assert {path: path.stat().st_mtime_ns for path in written} == written
    pd.testing.assert_frame_equal(again.results.table, found.results.table)


def check_redrawn(
    analyze: Analyze,
    settings: Settings,
    found: Outcome,
    figure: str,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A lost figure is drawn again, the same, from the saved numbers alone, in a copy at `out`."""
    shutil.copytree(found.report.parent, out)
    monkeypatch.setattr(study, "load_model", None)
    lost = out / "figures" / f"{figure}.png"
    lost.unlink()
    assert analyze(settings, out).up_to_date
    assert lost.read_bytes() == (found.report.parent / "figures" / lost.name).read_bytes()


def untimed(table: pd.DataFrame) -> pd.DataFrame:
    """Return a study's long table without what it cost, which is never the same twice."""
    return table[~table["metric"].str.startswith("cost.")].reset_index(drop=True)


def with_f1(results: Results, half: float) -> Results:
    """Return results as if their task were scored by F1, every number being known to ± ``half``."""
    table = results.table.assign(
        metric=results.table["metric"].replace({"accuracy": "f1"}),
        low=results.table["value"] - half,
        high=results.table["value"] + half,
    )
    inputs = {**results.inputs, "task": {**results.inputs["task"], "metric": "f1"}}
    return replace(results, table=table, inputs=inputs)


def check_goes_on(
    analyze: Analyze,
    settings: Settings,
    out: Path,
    patched: tuple[Any, str],
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[Path, pd.DataFrame]:
    """Stop at the kernels of ``patched`` (module and name), go on; return checkpoint and table."""
    folders: list[Path] = []
    real = getattr(*patched)

    def interrupted(*_: Any, options: Any, **__: Any) -> None:
        options.checkpoint.mkdir(parents=True)
        folders.append(options.checkpoint)
        raise KeyboardInterrupt

    monkeypatch.setattr(*patched, interrupted)
    with pytest.raises(KeyboardInterrupt):
        analyze(settings, out)
    monkeypatch.setattr(*patched, real)
    resumed = analyze(settings, out)
    assert not resumed.up_to_date
    assert not (out / "checkpoint").exists()
    (folder,) = folders
    return folder.relative_to(out), resumed.results.table


def check_leaves_nothing(
    analyze: Analyze,
    settings: Settings,
    out: Path,
    patched: tuple[Any, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Settings refused while computing leave no directory."""

    def refuse(*_: Any, **__: Any) -> None:
        raise UserError("rank 64 exceeds a layer")

    monkeypatch.setattr(*patched, refuse)
    with pytest.raises(UserError, match="rank 64"):
        analyze(settings, out)
    assert not out.exists()


def check_summary(summary: Any, sentence: str) -> str:
    """A summary is at most 80 columns wide and holds the answer; return its text."""
    console = Console(width=200, file=io.StringIO(), force_terminal=False)
    assert console.measure(summary.renderables[0]).maximum <= 80
    narrow = Console(width=80, file=io.StringIO())
    narrow.print(summary)
    text: str = narrow.file.getvalue()  # type: ignore[attr-defined]
    assert all(len(line) <= 80 for line in text.splitlines())
    assert " ".join(sentence.split()) in " ".join(text.split())
    return text


def check_in_browser(
    report: Path, profile: Path, images: int, more: Callable[[Browser], None] = lambda _: None
) -> None:
    """A report fits a phone, with all its pictures and without complaints; ``more`` looks on."""
    with chromium(profile) as browser:
        browser.open(report, 390)
        assert browser.complaints == []
        assert browser.evaluate("document.documentElement.scrollWidth") <= 390
        widths = browser.evaluate("[...document.images].map(image => image.naturalWidth)")
        assert len(widths) == images
        assert min(widths) >= 780
        assert "subkern x" in browser.evaluate("document.body.innerText")
        more(browser)


def page_of(study: Study[Any, Any], results: Results) -> str:
    """Return a report as HTML, with its captions, without drawing a figure."""
    names = study.figures(study.findings(results))
    return study.page(results, dict.fromkeys(names, b""))


def captions(study: Study[Any, Any], results: Results) -> dict[str, str]:
    """Return what a report says under each figure, as plain text, by the figure's name."""
    found = re.findall(
        r'<figure id="([^"]*)">.*?alt="([^"]*)".*?<figcaption>(.*?)</figcaption>',
        page_of(study, results),
        re.DOTALL,
    )
    assert all(alt for _, alt, _ in found)
    return {name: html.unescape(" ".join(text.split())) for name, _, text in found}


def facts(study: Study[Any, Any], results: Results) -> dict[str, str]:
    """Return the few numbers that a report shows large."""
    (block,) = re.findall(r'<dl class="facts">(.*?)</dl>', page_of(study, results), re.DOTALL)
    pairs = re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", block)
    return {html.unescape(name): html.unescape(value) for name, value in pairs}
