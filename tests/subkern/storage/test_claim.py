"""Whose a folder is: what is in the way is told in one line, with what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from subkern.errors import UserError
from subkern.storage.claim import REPLACE, refuse_foreign, refuse_other
from subkern.storage.files import replacing
from subkern.storage.provenance import differences


def test_the_same_work_is_not_refused() -> None:
    refuse_other("out", "a kernel", differences({"rule": "sgd"}, {"rule": "sgd"}))


def test_other_work_is_refused_with_both_values() -> None:
    changes = differences({"rule": "sgd", "rank": 4}, {"rule": "adam", "rank": 2})
    with pytest.raises(UserError) as error:
        refuse_other(Path("out"), "a kernel", changes)
    assert str(error.value) == (
        "'out' holds a kernel of other settings (rank: 4 asked for, 2 stored;"
        f' rule: "sgd" asked for, "adam" stored): {REPLACE}'
    )


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    refuse_foreign(tmp_path / "new", "run")
    refuse_foreign(tmp_path, "run")
    with replacing(tmp_path / "record.json") as part:
        part.write_text("half")
        refuse_foreign(tmp_path, "run")  # what a killed process leaves
    (tmp_path / "record.json").unlink()
    (tmp_path / ".K.zarr.lock").touch()  # of a kernel that was refused, or removed
    refuse_foreign(tmp_path, "run")
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(UserError, match=r"holds 'thesis\.tex' and no run: give another --out$"):
        refuse_foreign(tmp_path, "run", "give another --out")
    with pytest.raises(UserError, match=r"thesis\.tex' is a file: give another folder$"):
        refuse_foreign(tmp_path / "thesis.tex", "run")
