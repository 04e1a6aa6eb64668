"""A tiny masked language model and three tiny tasks in folders: a whole study takes seconds.

``python -m tests.support.tiny_study MODEL DATA`` writes both.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from tests.support.tiny_folder import masked_model

WORDS = {
    "SST-2": ("terrible", "great"),
    "mr": ("terrible", "great"),
    "trec": ("description", "entity", "expression", "human", "location", "number"),
}
"""Task → its label words, in label order."""

_COMMON = ("it", "was", "this", "is", ".", ":", "film", "plot", "story", "what", "where", "how")
_TELLING = ("sun", "rain", "wind", "snow", "hail", "fog")


def model(folder: Path) -> Path:
    """Save a random BERT of a few thousand parameters with its tokenizer; return the folder."""
    labels = dict.fromkeys(word for words in WORDS.values() for word in words)
    return masked_model(folder, (*_COMMON, *_TELLING, *labels))


def data(root: Path, *, shots: int = 4, test: int = 4, seeds: tuple[int, ...] = (13, 21)) -> Path:
    """Write the tasks in the k-shot layout below ``root``, ``test`` examples a label for test."""
    for task, words in WORDS.items():
        for seed in seeds:
            folder = root / task / f"{shots}-{seed}"
            folder.mkdir(parents=True)
            rng = np.random.default_rng((seed, len(words), len(task)))
            for split, count in (("train", shots), ("dev", shots), ("test", test)):
                labels = [label for label in range(len(words)) for _ in range(count)]
                rows = [(label, _text(label, len(words), rng)) for label in labels]
                if task == "SST-2":
                    lines = ["sentence\tlabel", *(f"{text}\t{label}" for label, text in rows)]
                    (folder / f"{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
                else:
                    lines = [f"{label},{text}" for label, text in rows]
                    (folder / f"{split}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


def _text(label: int, labels: int, rng: np.random.Generator) -> str:
    """Return four words, one of which tells the label most of the time."""
    shown = label if rng.random() < 0.9 else int(rng.integers(labels))
    return " ".join(rng.permutation([*rng.choice(_COMMON[6:], 3), _TELLING[shown]]))


if __name__ == "__main__":
    model(Path(sys.argv[1]))
    data(Path(sys.argv[2]))
