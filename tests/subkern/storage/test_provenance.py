"""Provenance: one JSON text, fingerprints and differences that agree, and what runs here."""

from __future__ import annotations

import copy
import json
import re
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subkern.storage import provenance
from subkern.storage.provenance import (
    NUMERICS,
    OLDER,
    canonical_json,
    decisive,
    differences,
    environment,
    fingerprint,
    normalize,
    summary,
)

FLOATS = st.floats(allow_nan=False, allow_infinity=False)
LEAVES = st.none() | st.booleans() | st.integers() | FLOATS | st.text(max_size=8)
KEYS = st.text(max_size=3)
JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=12,
)
PROVENANCES = st.dictionaries(
    st.sampled_from(["rule", "task", "seed", "a.b", ""]), JSON, max_size=4
)


@given(PROVENANCES, PROVENANCES)
def test_differences_are_empty_exactly_if_fingerprints_agree(one: dict, other: dict) -> None:
    assert (differences(one, other) == []) == (fingerprint(one) == fingerprint(other))
    assert differences(one, copy.deepcopy(one)) == []
    for line in differences(one, other):
        assert "\n" not in line
        assert line.endswith(" stored")
        assert len(line) < 400


@given(PROVENANCES)
def test_fingerprints_ignore_order_and_container_types(value: dict) -> None:
    shuffled = {key: value[key] for key in reversed(list(value))}
    assert fingerprint(shuffled) == fingerprint(value)
    assert len(fingerprint(value)) == 64


@given(JSON)
def test_canonical_json_is_ascii_and_lossless(value: Any) -> None:
    text = canonical_json(value)
    assert text.isascii()
    assert normalize(value) == value


@pytest.mark.parametrize(
    ("asked", "stored", "line"),
    [
        ({"rule": "sgd"}, {"rule": "signgd"}, 'rule: "sgd" asked for, "signgd" stored'),
        ({}, {"seed": 13}, "seed: (absent) asked for, 13 stored"),
        ({"seed": 13}, {}, "seed: 13 asked for, (absent) stored"),
        ({"lora": {"r": 4}}, {"lora": {"r": 8}}, "lora.r: 4 asked for, 8 stored"),
        ({"lora": {}}, {}, "lora: {} asked for, (absent) stored"),
        ({"ranks": (1, 2)}, {"ranks": [1, 4]}, "ranks[1]: 2 asked for, 4 stored"),
        ({"ranks": [1]}, {"ranks": [1, 2]}, "ranks: [1] asked for, [1,2] stored"),
        ({"x": 1}, {"x": 1.0}, "x: 1 asked for, 1.0 stored"),
        ({"x": True}, {"x": 1}, "x: true asked for, 1 stored"),
        (
            {"ids": [f"train-{i}" for i in range(32)]},
            {"ids": [f"train-{i}" for i in range(64)]},
            'ids: 32 items ("train-0" ... "train-31") asked for,'
            ' 64 items ("train-0" ... "train-63") stored',
        ),
    ],
)
def test_difference_lines(asked: dict, stored: dict, line: str) -> None:
    assert differences(asked, stored) == [line]


def test_long_values_are_shown_where_they_differ() -> None:
    text = "x" * 500
    (line,) = differences({"template": f"{text}one{text}"}, {"template": f"{text}two{text}"})
    assert "one" in line
    assert "two" in line
    assert len(line) < 200


def test_only_asked_compares_named_fields_wholly() -> None:
    stored = {"rule": "sgd", "lora": {"r": 8, "alpha": 16}}
    assert differences({"rule": "sgd"}, stored, only_asked=True) == []
    assert differences({"lora": {"r": 8}}, stored, only_asked=True) == [
        "lora.alpha: (absent) asked for, 16 stored"
    ]


def test_summary() -> None:
    lines = [f"field {i}" for i in range(6)]
    assert summary(lines[:2]) == "field 0; field 1"
    assert summary(lines, limit=3) == "field 0; field 1; field 2; and 3 more"


def test_what_is_only_recorded_decides_nothing() -> None:
    full = {"rule": "sgd", "environment": environment(), "recorded": {"seconds": 1.5}}
    moved = copy.deepcopy(full)
    moved["environment"]["machine"]["cpu"] = "another"
    moved["environment"]["code"] |= {"commit": "another", "dirty": True}
    del moved["recorded"]
    assert fingerprint(moved) == fingerprint(full)
    assert differences(moved, full) == []
    assert set(decisive(full)["environment"]["code"]) == {"numerics"}

    moved["environment"]["versions"]["torch"] = "0.0"
    (line,) = differences(moved, full)
    assert line.startswith('environment.versions.torch: "0.0" asked for')


@pytest.mark.parametrize("value", [{"environment": 3}, {"environment": {"code": None}}, {}])
def test_decisive_takes_any_shape(value: dict) -> None:
    assert decisive(value) == value
    assert differences(value, value) == []


def test_normalize() -> None:
    given_value = {"a": (1, np.int64(2)), "b": np.float32(0.5), "c": Path("x") / "y"}
    assert normalize(given_value) == {"a": [1, 2], "b": 0.5, "c": str(Path("x") / "y")}


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ({"x": {"y": [0, float("nan")]}}, r"provenance.x.y\[1\]"),
        ({"x": float("inf")}, "provenance.x"),
        ({"x": {1: 2}}, "provenance.x has a key"),
        ({"x": object()}, "provenance.x"),
        ({"x": np.ones(2)}, "provenance.x"),
    ],
)
def test_normalize_refuses_what_json_cannot_hold(value: dict, place: str) -> None:
    with pytest.raises(TypeError, match=place):
        normalize(value)


def test_environment() -> None:
    found = environment()
    assert found["code"]["version"] == version("subkern")  # as installed
    assert all(found["versions"][name] for name in ("torch", "transformers", "peft", "numpy"))
    assert found["code"]["numerics"] == NUMERICS
    assert found["machine"]["threads"] >= 1
    assert found["machine"]["cpu"]
    assert normalize(found) == found


def test_commit_and_dirty_flag(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.invalid"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True)

    assert provenance._checkout(tmp_path) == (None, None)
    git("init", "--quiet")
    (tmp_path / "a.py").write_text("1\n")
    assert provenance._checkout(tmp_path) == (None, False)
    git("add", "a.py")
    git("commit", "--quiet", "--message", "a")
    commit, dirty = provenance._checkout(tmp_path)
    assert commit is not None
    assert len(commit) == 40
    assert dirty is False
    (tmp_path / "a.py").write_text("2\n")
    assert provenance._checkout(tmp_path) == (commit, True)
    (tmp_path / "site-packages").mkdir()
    assert provenance._checkout(tmp_path / "site-packages") == (None, None)


def test_without_git(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance._checkout(tmp_path) == (None, None)


OLD = Path(__file__).parents[1] / "kernels" / "kernel-0.1.0.zarr"
"""A kernel of two examples that version 0.1.0 wrote."""


def of_later(old: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """What a later version calls the same numbers."""
    found = {
        **old,
        "weights": "7" * 64,
        "environment": copy.deepcopy(old["environment"]),
        **changes,
    }
    found["environment"]["code"] = {"numerics": 1, "version": "0.2.0"}
    del found["environment"]["versions"]["subkern"]
    return found


def test_what_an_older_version_made_is_told_in_words_not_in_digests() -> None:
    attributes = json.loads((OLD / "zarr.json").read_text())["attributes"]
    old = json.loads(attributes["provenance"])
    assert differences(of_later(old), old) == [OLDER] == differences(old, of_later(old))
    assert differences(of_later(old) | {"study": "a"}, old | {"study": "b"}) == [OLDER]
    assert differences(of_later(old, rule="adam"), old) == [
        OLDER,
        'rule: "adam" asked for, "sgd" stored',
    ]
    newer_torch = of_later(old)
    newer_torch["environment"]["versions"]["torch"] = "3"
    changes = summary(differences(newer_torch, old))
    assert re.search(r"torch: \"3\" asked for", changes)
    assert not re.search("[0-9a-f]{16}", changes)
    assert differences(old, {**old, "weights": "7" * 16}) != [OLDER]  # two of one version
