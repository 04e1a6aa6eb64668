"""``subkern figures``: what it writes, what it refuses, and the report in a real browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
import yaml
from click.testing import CliRunner, Result

import cli
from analyses.engine.run_folder import RunDirectory, write_record
from analyses.fourteen_tasks.results import page as paper
from analyses.fourteen_tasks.results.read import load
from analyses.fourteen_tasks.table import SCHEMA
from subkern.errors import UserError
from tests.support import fake_study
from tests.support.browser import Browser, chromium
from tests.support.folders import names

SMALL = {"tasks": ("SST-2", "ag_news", "RTE"), "seeds": (13, 21)}
PNG, PDF = b"\x89PNG", b"%PDF-1"


def small() -> pd.DataFrame:
    """Return a study of three tasks; one cell failed, SignGD was not run."""
    found = fake_study.table(**SMALL)  # type: ignore[arg-type]
    found = found[found["method"] != "finetune-signgd"]
    gone = (found["task"] == "RTE") & (found["method"] == "finetune-adam") & (found["k"] == 16)
    failed = (
        found[gone]
        .iloc[:1]
        .assign(
            status="failed", value=None, metric=None, cell="RTE/16-13/prompt/finetune-adam/best"
        )
    )
    return pd.concat([found[~gone], failed], ignore_index=True).astype(fake_study.COLUMNS)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a study that has been drawn."""
    folder = fake_study.write(tmp_path_factory.mktemp("drawn") / "my study", small())
    assert paper.draw(folder) == folder / "report.html"
    return folder


@pytest.fixture(scope="module")
def html(drawn: Path) -> str:
    return (drawn / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("profile")) as options:
        yield options


def test_what_limits_a_study_is_said(tmp_path: Path, html: str) -> None:
    """Few test examples, and subspace kernels of SGD beside training by Adam."""
    assert "those of SGD, their fine-tuning is Adam's" in html.replace("&#39;", "'")
    assert "test examples a task" not in html
    folder = fake_study.write(tmp_path / "few", small()[lambda rows: rows["task"] == "SST-2"])
    record = yaml.safe_load((folder / "config.yaml").read_text())
    record["config"]["test_limit"] = 100
    write_record(folder, record)
    text = paper.draw(folder).read_text(encoding="utf-8")
    assert "At most 100 test examples a task: one standard error of an accuracy is about" in text


class Headings(HTMLParser):
    """The texts of h2 and h3, in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.inside, self.found = False, list[str]()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.inside = tag in ("h2", "h3")

    def handle_data(self, data: str) -> None:
        if self.inside and data.strip():
            self.found.append(data.strip())


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli.cli, ["figures", *map(str, arguments)])


def test_what_is_written(drawn: Path) -> None:
    stems = {name.partition(".")[0] for name in names(drawn / "figures")}
    assert stems == {
        "kernel-vs-finetuning", "prompting", "linearization", "fixed-features",
        "subspace-kernels", "subspace-sizes",
    }  # fmt: skip
    for name in stems:
        assert (drawn / "figures" / f"{name}.png").read_bytes().startswith(PNG)
        assert (drawn / "figures" / f"{name}.pdf").read_bytes().startswith(PDF)
    tables = {path.name for path in (drawn / "tables").iterdir()}
    stems = {name.partition(".")[0] for name in tables}
    assert tables == {f"{stem}.{end}" for stem in stems for end in ("md", "tex", "parquet")}
    assert {"accuracy-prompt", "prompting", "behaviour", "subspaces-prompt"} <= stems


def test_the_story_is_told_in_order(html: str) -> None:
    found = Headings(html).found
    story = [
        "Answer", "How to read this page", "Figures", "Kernels and fine-tuning",
        "Prompt and linear head", "Linearization", "Fixed features",
        "LoRA and random-subspace kernels", "Kernels by rank and dimension", "Tables",
        "Kernels and fine-tuning, prompt", "Subspaces, prompt", "Prompt and linear head",
        "Verdict per task: prompt, SGD-FT, 16 shots", "Missing cells", "Failed cells", "Cost",
        "Settings", "Command", "Environment",
    ]  # fmt: skip
    places, start = [], 0
    for name in story:
        start = found.index(name, start)
        places.append(start)
    assert places == sorted(places)


def test_the_report_says_what_was_run_and_what_is_missing(html: str, drawn: Path) -> None:
    assert "What was run: tiny on 3 tasks (SST-2, ag_news, RTE), 16 and 64 shots" in html
    assert "1 cell failed and left no numbers: RTE/16-13/prompt/finetune-adam/best" in html
    assert "it needs the cells finetune-signgd and finetune-adam of the same task" in html
    assert re.search(r"Kernel behavior of SGD-FT \(prompt, 16 shots\) on 3 tasks: seen on \d", html)
    assert "subkern analyze fourteen-tasks --preset quick --out runs/study" in html
    assert f"subkern figures &#39;{drawn}&#39;" in html  # quoted for the shell: it has a space
    assert not re.search(r"\bnan\b", html)


@pytest.mark.parametrize(("width", "dark"), [(390, False), (390, True), (1200, False)])
def test_in_a_browser(browser: Browser, drawn: Path, width: int, dark: bool) -> None:
    browser.open(drawn / "report.html", width, dark=dark)
    assert browser.complaints == []
    assert [url for url in browser.requests if not url.startswith(("file:", "data:"))] == []
    assert browser.evaluate("document.images.length") == 6
    assert browser.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate("document.querySelectorAll('td strong').length") > 10
    line = "getComputedStyle(document.querySelector('tr.section > td')).borderTopWidth"
    assert browser.evaluate(line) == "2px"


@pytest.mark.slow
def test_the_same_study_draws_the_same_files(drawn: Path, tmp_path: Path) -> None:
    paper.draw(drawn, out=tmp_path)
    for path in [*(drawn / "figures").glob("*.png"), *(drawn / "tables").iterdir()]:
        assert path.read_bytes() == (tmp_path / path.parent.name / path.name).read_bytes()


def test_an_old_figure_that_can_no_longer_be_drawn_is_removed(tmp_path: Path) -> None:
    table = fake_study.table(tasks=("RTE",), shots=(16,), seeds=(13,), methods=("kernel-sgd",))
    folder = fake_study.write(tmp_path / "s", table)
    (folder / "figures").mkdir()
    for name in ("signgd-vs-adam.png", "signgd-vs-adam.pdf", "mine.png"):
        (folder / "figures" / name).write_bytes(b"old")
    (folder / "tables").mkdir()
    for name in ("subspaces-linear.md", "accuracy-prompt.tex", "behaviour.parquet", "mine.md"):
        (folder / "tables" / name).write_bytes(b"old")
    paper.draw(folder, formats=("md",))
    assert {path.name for path in (folder / "tables").iterdir()} >= {"mine.md"}
    assert not {"subspaces-linear.md", "behaviour.parquet"} & {
        path.name for path in (folder / "tables").iterdir()
    }
    left = {name for name in names(folder / "figures") if "prompting" not in name}
    assert left == {"mine.png"}
    assert "No kernel stands beside its fine-tuning yet" in (folder / "report.html").read_text()


def test_the_command_writes_elsewhere_and_tables_alone(drawn: Path, tmp_path: Path) -> None:
    done = run(drawn, "--out", tmp_path / "x", "--tables-only", "--formats", "latex, md")
    assert (done.exit_code, done.output.split()[:1]) == (0, ["wrote"])
    assert [p.name for p in (tmp_path / "x").iterdir() if p.name != ".lock"] == ["tables"]
    assert {path.suffix for path in (tmp_path / "x" / "tables").iterdir()} == {".md", ".tex"}


def broken(folder: Path, what: str) -> Path:
    """Return a folder that cannot be drawn."""
    table = fake_study.tidy([fake_study.score("kernel-sgd", 0.8)])
    if what == "file":
        folder.write_text("x")
    elif what == "foreign":
        folder.mkdir()
    elif what == "unfinished":
        RunDirectory(folder, "fourteen-tasks", {}).claim({}, {}, "subkern")
    elif what == "empty":
        fake_study.write(folder, table.iloc[:0])
    elif what == "failed":
        fake_study.write(folder, table.assign(status="failed"))
    elif what == "column":
        fake_study.write(folder, table.drop(columns=["head", "solver"]))
    elif what == "schema":
        fake_study.write(folder, table, schema=SCHEMA + 1)
    return folder


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("nothing", r"is no directory: give the --out folder of a study"),
        ("file", r"is no directory"),
        ("foreign", r"holds no subkern run: give the --out folder"),
        ("unfinished", r"is unfinished: run its command again"),
        ("empty", r"no cell of the study in '.*' is finished"),
        ("failed", r"no cell of the study in '.*' is finished"),
        ("column", r"lacks the column 'head' and 1 more"),
        ("schema", rf"is of version {SCHEMA + 1}, this subkern reads {SCHEMA}"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(tmp_path: Path, what: str, said: str) -> None:
    folder = broken(tmp_path / "study", what)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=said) as caught:
        paper.draw(folder)
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before
    assert isinstance(run(folder).exception, UserError)


def test_an_unknown_format_is_one_line(drawn: Path, tmp_path: Path) -> None:
    done = run(drawn, "--out", tmp_path / "x", "--formats", "word")
    assert str(done.exception) == "unknown table format 'word': use md, latex, parquet, json"
    assert not (tmp_path / "x").exists()


def test_rows_that_do_not_apply_may_be_missing(tmp_path: Path) -> None:
    found = load(fake_study.write(tmp_path / "s", fake_study.tidy([fake_study.score("x", 0.5)])))
    assert found.table["subspace"].tolist() == [""]
