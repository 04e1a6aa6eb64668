"""k-shot sampling exactly as LM-BFF's ``generate_k_shot_data.py`` does it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["TEST_CAP", "cap_test", "sample_k_shot"]

TEST_CAP = 1000
_TEST_SEED = 42  # LM-Kernel-FT's: one test set for all seeds and shots


def sample_k_shot(labels: Sequence[str], shots: int, seed: int) -> tuple[list[int], list[int]]:
    """Choose rows for train and dev: after a shuffle, the first k of each label and the next k.

    Labels come in the order in which the shuffle meets them, so the files LM-BFF writes have this
    very order. A label with too few rows gives what it has.

    Args:
        labels: label of every row, ``[n]``.
        shots: k, rows per label.
        seed: of NumPy's legacy generator (MT19937), whose stream is frozen.

    Returns:
        Row numbers of train and of dev: disjoint.
    """
    order = np.random.RandomState(seed).permutation(len(labels))
    by_label: dict[str, list[int]] = {}
    for row in order:
        by_label.setdefault(labels[row], []).append(int(row))
    train = [row for rows in by_label.values() for row in rows[:shots]]
    dev = [row for rows in by_label.values() for row in rows[shots : 2 * shots]]
    return train, dev


def cap_test(count: int) -> list[int]:
    """Choose the test rows of `count`: all, or 1,000 of a shuffle that no seed changes."""
    if count <= TEST_CAP:
        return list(range(count))
    return [int(row) for row in np.random.RandomState(_TEST_SEED).permutation(count)[:TEST_CAP]]
