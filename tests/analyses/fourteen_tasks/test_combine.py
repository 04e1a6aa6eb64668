"""Several studies drawn as one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from click.testing import CliRunner

import cli
from analyses.engine.run_folder import RunDirectory
from analyses.fourteen_tasks.results import page as paper
from analyses.fourteen_tasks.results.combine import combine, differences
from analyses.fourteen_tasks.results.read import load
from subkern.errors import UserError
from subkern.storage.files import write_json
from tests.support import fake_study

SHOTS = {"shots": (16,), "seeds": (13, 21), "heads": ("prompt",)}


def rows(*tasks: str, **about: Any) -> pd.DataFrame:
    return fake_study.table(tasks=tasks, **{**SHOTS, **about})


def part(
    folder: Path, table: pd.DataFrame, examples: dict[str, str] | None = None, **config: Any
) -> Path:
    """Write a study of one model, with settings of its own."""
    settings = {"model": "models/tiny", "tasks": sorted(set(table["task"])), **config}
    run = RunDirectory(folder, "fourteen-tasks", {"config": settings})
    inputs = {"schema": 1, **({"examples": examples} if examples else {})}
    run.claim(settings, inputs, f"subkern analyze fourteen-tasks --out {folder.name}")
    run.finish(table, {"machine": {"cores": 2}, "started": folder.name})
    return folder


def versioned(folder: Path, digest: str = "abc", torch: str = "2.13.0") -> Path:
    """Rewrite the versions in a study's record."""
    place = folder / "environment.json"
    about = {
        "code": {"digest": digest, "commit": f"{digest}0123456789"},
        "versions": {"torch": torch},
    }
    write_json(place, json.loads(place.read_text()) | about)
    return folder


def numbers(table: pd.DataFrame) -> pd.DataFrame:
    return table.sort_values(list(table.columns)).reset_index(drop=True)


def test_the_whole_holds_what_its_parts_hold(tmp_path: Path) -> None:
    """Cells of several parts once, whatever their order; a part may be a whole."""
    first = part(tmp_path / "a", rows("SST-2", "RTE"), test_limit=100)
    second = part(tmp_path / "b", rows("RTE", "trec"), test_limit=100)
    third = part(tmp_path / "c", rows("mr"), test_limit=100)
    whole = combine([combine([first, second], tmp_path / "ab"), third], tmp_path / "o")
    found = load(whole)
    assert found.tasks == ["SST-2", "mr", "trec", "RTE"]
    expected = rows("SST-2", "RTE", "trec", "mr")
    pd.testing.assert_frame_equal(numbers(found.results.table), numbers(expected))
    assert list(found.config.tasks) == ["RTE", "SST-2", "trec", "mr"]
    assert found.config.test_limit == 100
    environment = json.loads((whole / "environment.json").read_text())
    assert [each["started"] for each in environment["parts"].values()] == ["a", "b", "c"]
    command = yaml.safe_load((whole / "config.yaml").read_text())["command"].splitlines()
    assert [line.rpartition(" ")[2] for line in command[:2]] == ["a", "b"]
    assert command[-1] == f"subkern figures {tmp_path / 'ab'} {third} --out {whole}"


def test_parts_of_other_versions_are_joined_only_if_that_is_asked_for(tmp_path: Path) -> None:
    one = versioned(part(tmp_path / "a", rows("SST-2")))
    same = versioned(part(tmp_path / "b", rows("RTE")))
    newer = versioned(part(tmp_path / "c", rows("mr")), digest="def", torch="2.14.0")
    whole = load(combine([one, same], tmp_path / "same"))
    assert differences(whole.results.environment) == []
    with pytest.raises(
        UserError, match=r"different versions \(code of subkern abc0123, def0123; tor"
    ):
        combine([one, newer], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    done = CliRunner().invoke(
        cli.cli, ["figures", str(one), str(newer), "--out", str(tmp_path / "out")]
    )
    assert isinstance(done.exception, UserError)
    out = combine([one, newer], tmp_path / "out", across_versions=True)
    found = differences(load(out).results.environment)
    assert found == ["code of subkern abc0123, def0123", "torch 2.13.0, 2.14.0"]
    assert load(out).results.command.endswith("--across-versions")
    text = (paper.draw(out)).read_text()
    assert "different versions (code of subkern abc0123, def0123 and torch 2.13.0, 2.14.0)" in text
    assert "different versions" not in (paper.draw(tmp_path / "same")).read_text()


def test_what_failed_in_one_part_and_is_done_in_another_is_done(tmp_path: Path) -> None:
    table = rows("SST-2")
    failed = table.iloc[:1].assign(status="failed", value=None, metric=None)
    rest = table[table["cell"] != failed["cell"].iloc[0]]
    broken = part(tmp_path / "broken", pd.concat([rest, failed], ignore_index=True))
    lost = failed.assign(cell="SST-2/lost")
    mended = part(tmp_path / "mended", pd.concat([table, lost], ignore_index=True))
    found = load(combine([broken, mended], tmp_path / "out"))
    assert found.failed["cell"].tolist() == ["SST-2/lost"]
    assert set(found.table["cell"]) == set(table["cell"])


def test_settings_that_decide_no_number_of_both_may_differ(tmp_path: Path) -> None:
    """Steps count where both trained, a head's start where both have that head."""
    kernels = part(
        tmp_path / "kernels", rows("RTE", methods=("kernel-sgd",)), steps=1000, head_init="random",
        batch_sizes=[2, 4],
    )  # fmt: skip
    rates = [{"finetune-sgd": [0.1]}, {"finetune-adam": [0.2]}]
    trained = part(
        tmp_path / "trained", rows("trec", methods=("finetune-sgd",)), steps=60, head_init="probe",
        learning_rates=rates[0], batch_sizes=[8],
    )  # fmt: skip
    other = part(
        tmp_path / "other", rows("trec", methods=("finetune-adam",)), steps=60,
        learning_rates=rates[1] | {"finetune-sgd": [9.0]}, batch_sizes=[8],
    )  # fmt: skip
    found = load(combine([kernels, trained, other], tmp_path / "out"))
    assert found.config.steps == 60
    assert found.config.batch_sizes == (8,)
    assert found.config.head_init == "random"  # nobody uses it
    assert found.results.config["learning_rates"] == rates[0] | rates[1]


def test_suggested_rates_are_of_one_study_with_suggested_rates(tmp_path: Path) -> None:
    """Of an old study, a method that is not named had the rates of then."""
    auto = {"learning_rates": {"finetune-sgd": "auto"}}
    first = part(tmp_path / "a", rows("RTE", methods=("finetune-sgd",)), **auto)
    second = part(tmp_path / "b", rows("mr", methods=("finetune-sgd",)), **auto)
    whole = combine([first, second], tmp_path / "whole")
    assert load(whole).results.config["learning_rates"] == auto["learning_rates"]
    assert load(whole).config.rates("finetune-sgd") == "auto"
    old = part(tmp_path / "old", rows("cr", methods=("finetune-sgd",)))
    said = r"rates of finetune-sgd is 'auto' in the first and \[0.0001, .*\] in the second"
    refused([whole, old], tmp_path / "out", said)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"test_limit": 50}, "test_limit is 100 in the first and 50 in the second"),
        ({"model": "other"}, "model is 'tiny' in the first and 'other' in the second"),
        ({"steps": 10}, "steps is 60 in the first and 10 in the second"),
        (
            {"learning_rates": {"finetune-sgd": [0.1]}},
            r"rates of finetune-sgd is \[0.0001, .* in the first and \[0.1\] in the second",
        ),
        ({"solvers": ["svc"]}, r"solvers is \['ridge'\] in the first and \['svc'\] in the second"),
    ],
)
def test_parts_of_other_settings_are_refused(
    tmp_path: Path, config: dict[str, Any], said: str
) -> None:
    settings: dict[str, Any] = {"test_limit": 100, "steps": 60, "solvers": ["ridge"]}
    first = part(tmp_path / "a", rows("RTE"), **settings)
    second = part(tmp_path / "b", rows("mr"), **{**settings, **config})
    refused([first, second], tmp_path / "out", said)


def test_parts_on_other_examples_are_refused_and_the_whole_knows_all(tmp_path: Path) -> None:
    first, same, other = (
        part(tmp_path / name, rows(task), examples=examples)
        for name, task, examples in (
            ("a", "RTE", {"RTE/16-13": "abc"}),
            ("b", "mr", {"RTE/16-13": "abc", "mr/16-13": "def"}),
            ("c", "mr", {"mr/16-13": "other", "RTE/16-13": "of none of its numbers"}),
        )
    )
    whole = combine([first, same], tmp_path / "whole")
    assert load(whole).results.inputs["examples"] == {"RTE/16-13": "abc", "mr/16-13": "def"}
    refused([whole, other], tmp_path / "out", "digest of the examples of mr/16-13 is 'def' in the")


def test_a_cell_with_two_values_is_refused(tmp_path: Path) -> None:
    table = rows("RTE", methods=("kernel-sgd",))
    other = table.copy()
    other.loc[3, "value"] += 0.01
    first, second = part(tmp_path / "a", table), part(tmp_path / "b", other)
    refused([first, second], tmp_path / "out", f"cell '{table['cell'][3]}' stands in")
    part(tmp_path / "less", table.drop(index=3).reset_index(drop=True))
    refused([first, tmp_path / "less"], tmp_path / "out", "with 4 numbers and in .* with 3 numbers")


def test_places_that_are_no_place_for_the_whole(tmp_path: Path) -> None:
    first, second = part(tmp_path / "a", rows("RTE")), part(tmp_path / "b", rows("mr"))
    other = part(tmp_path / "other", rows("mr"))
    refused([first, second], first, "is one of the studies: give another --out")
    refused([first, second], other, "holds a run of its own: give another --out")
    refused([first, first], tmp_path / "out", "is given twice")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("x")
    refused([first, second], tmp_path / "full", "and no subkern run")


def refused(parts: list[Path], out: Path, said: str) -> None:
    """Check that one line says so and that nothing is written."""
    before = {path: path.stat().st_mtime_ns for path in out.parent.rglob("*")}
    with pytest.raises(UserError, match=said) as caught:
        combine(parts, out)
    assert "\n" not in str(caught.value)
    assert {path: path.stat().st_mtime_ns for path in out.parent.rglob("*")} == before


def test_the_command_draws_several_and_draws_them_again(tmp_path: Path) -> None:
    first, second = part(tmp_path / "a", rows("SST-2")), part(tmp_path / "b", rows("mr"))
    out = tmp_path / "out"

    def run(*arguments: Path | str) -> str:
        done = CliRunner().invoke(cli.cli, ["figures", *map(str, arguments), "--tables-only"])
        if isinstance(done.exception, UserError):
            return str(done.exception)
        assert done.exit_code == 0
        lines = (out / "tables" / "accuracy-prompt.md").read_text().splitlines()
        return next(line for line in lines if line.startswith("| Method | Shots"))

    assert run(first, second) == "2 studies are drawn as one: say where with --out FOLDER"
    assert run(first, second, "--out", out).endswith("| SST-2 | mr |")
    third = part(tmp_path / "c", rows("cr"))
    assert run(first, second, third, "--out", out).endswith("| SST-2 | mr | cr |")
    assert run(out).endswith("| SST-2 | mr | cr |")
