"""How much memory may be used."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from subkern import UserError
from subkern.storage import memory
from subkern.storage.memory import parse_memory


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3GiB", 3 * 2**30),
        ("800MiB", 800 * 2**20),
        ("1.5 G", 1.5 * 2**30),
        ("2gb", 2 * 2**30),
        ("64k", 2**16),
        ("1000", 1000),
        (4096, 4096),
        ("7B", 7),
    ],
)
def test_memory_is_read_as_people_write_it(text: str | int, value: float) -> None:
    assert parse_memory(text) == value


@pytest.mark.parametrize("text", ["", "lots", "3 apples", "GiB", "1e", "0", "-2GiB", "nan", "inf"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=rf"^memory '{text}' is not .*: write it like 3GiB"):
        parse_memory(text)


def test_memory_by_default_is_modest() -> None:
    assert 0 < parse_memory(None) <= 4 * 2**30


def test_workers_share_what_one_would_take(monkeypatch: pytest.MonkeyPatch) -> None:
    free = SimpleNamespace(available=6 * 2**30)
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: free)
    monkeypatch.setattr(memory, "_sharing", 1)
    assert parse_memory(None) == 3 * 2**30
    memory.share_memory(3)
    assert parse_memory(None) == 2**30
    assert parse_memory("2GiB") == 2 * 2**30  # what is asked for is each one's
