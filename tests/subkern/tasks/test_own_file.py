"""Data files of one's own: every format, what is recognized, and what is said of a bad row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from subkern.errors import UserError
from subkern.tasks.examples import SPLITS, load_examples
from subkern.tasks.own_file import DEMO_FILES, described, file_task

CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
NO = [{"role": "assistant", "content": "N"}]
USER, ANSWER = (("user", "Hi"),), (("assistant", "Hello."),)


def written(folder: Path, rows: list[dict[str, Any]], name: str = "rows.jsonl") -> str:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


ROWS: dict[str, tuple[dict[str, Any], str, tuple[str, ...], tuple[Any, ...], int]] = {
    "prompt-completion": ({"prompt": "a", "completion": "b"}, "completion", ("a", "b"), (), 0),
    "prompt-completion of chats": (
        {"prompt": CHAT[:1], "completion": CHAT[1:]}, "completion", (), (USER, ANSWER), 0,
    ),
    "messages": ({"messages": CHAT}, "completion", (), (USER + ANSWER,), 0),
    "conversations": (
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello."}]},
        "completion", (), (USER + ANSWER,), 0,
    ),
    "text": ({"text": "all of it"}, "completion", ("all of it",), (), 0),
    "choices by number": (
        {"question": "q", "choices": ["x", "y"], "answer": 1}, "choices", ("q", "x", "y"), (), 1,
    ),
    "choices by letter": (
        {"question": "q", "choices": ["x", "y"], "answer": "B"}, "choices", ("q", "x", "y"), (), 1,
    ),
    "choices by text": (
        {"question": "q", "choices": ["x", "y"], "answer": "y"}, "choices", ("q", "x", "y"), (), 1,
    ),
    "choices as in ARC": (
        {"question": "q", "choices": {"text": ["x", "y"], "label": ["1", "2"]}, "answer": "2"},
        "choices", ("q", "x", "y"), (), 1,
    ),
    "choices with labels from 1": (
        {"question": "q", "choices": {"text": ["x", "y"], "label": [1, 2]}, "answer": 1},
        "choices", ("q", "x", "y"), (), 0,
    ),
    "preference": (
        {"prompt": "a", "chosen": "b", "rejected": "c"}, "preference", ("a", "b", "c"), (), 1,
    ),
    "preference of answers as messages": (
        {"prompt": CHAT[:1], "chosen": CHAT[1:], "rejected": NO},
        "preference", (), (USER, ANSWER, (("assistant", "N"),)), 1,
    ),
    "preference of whole chats": (
        {"chosen": CHAT, "rejected": [CHAT[0], *NO]},
        "preference", (), (USER, ANSWER, (("assistant", "N"),)), 1,
    ),
    "preference of whole chats beside their prompt": (
        {"prompt": "Hi", "chosen": CHAT, "rejected": [CHAT[0], *NO]},
        "preference", (), (USER, ANSWER, (("assistant", "N"),)), 1,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_columns_say_what_a_row_is(name: str, tmp_path: Path) -> None:
    row, kind, texts, chats, label = ROWS[name]
    task = file_task(written(tmp_path, [row] * 10))
    assert task.kind == kind
    (example, *_) = load_examples(task, "", split="train")
    assert (example.texts, example.chats, example.label) == (texts, chats, label)


def test_instructions_are_a_chat_or_alpacas_text(tmp_path: Path) -> None:
    row = {"instruction": "Add", "input": "1 2", "output": "3"}
    task = file_task(written(tmp_path, [row] * 10))
    example = load_examples(task, "", split="train")[0]
    assert example.chats == ((("user", "Add\n\n1 2"),), (("assistant", "3"),))
    assert example.texts[0].endswith("### Input:\n1 2\n\n### Response:\n")


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "tsv", "parquet"])
def test_endings_say_how_a_file_is_written(ending: str, tmp_path: Path) -> None:
    rows = [{"text": f"mail, {i}", "label": ("spam", "no spam")[i % 2]} for i in range(20)]
    path = tmp_path / f"mails.{ending}"
    if ending == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif ending in ("json", "jsonl"):
        lines = [json.dumps(row) for row in rows]
        path.write_text("\n".join(lines) if ending == "jsonl" else f"[{','.join(lines)}]")
    else:
        sign, quote = (",", '"') if ending == "csv" else ("\t", "")
        lines = [f"{quote}{r['text']}{quote}{sign}{r['label']}" for r in rows]
        path.write_text("\n".join([f"text{sign}label", *lines]))
    task = file_task(str(path))
    assert task.labels == ("no spam", "spam")
    found = {split: load_examples(task, "", split=split) for split in SPLITS}
    assert {name: len(each) for name, each in found.items()} == {"train": 14, "dev": 2, "test": 4}
    assert sorted(e.texts[0] for each in found.values() for e in each) == sorted(
        r["text"] for r in rows
    )
    assert {e.label for e in found["test"]} == {0, 1}  # labels keep their shares
    again = load_examples(task, "", split="train", seed=14)
    assert again != found["train"]


def test_columns_of_any_name(tmp_path: Path) -> None:
    rows = [{"subject": f"s{i}", "body": "b", "kind": i % 3} for i in range(12)]
    given = written(tmp_path, rows)
    with pytest.raises(UserError, match="which no format has: say which is which"):
        file_task(given)
    task = file_task(given, columns="text=subject+body,label=kind")
    assert task.labels == ("0", "1", "2")
    assert load_examples(task, "", split="train")[0].texts[1] == "b"
    with pytest.raises(UserError, match="no column 'topic'"):
        file_task(given, columns="text=topic,label=kind")


def test_a_test_file_of_its_own(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{i}", "completion": "c"} for i in range(10)]
    test = written(tmp_path, rows[:3], "test.jsonl")
    task = file_task(written(tmp_path, rows), test=test)
    counts = [len(load_examples(task, "", split=split)) for split in SPLITS]
    assert counts == [9, 1, 3]


def test_files_of_one_task_have_one_format(tmp_path: Path) -> None:
    rows = written(tmp_path, [{"prompt": "p", "completion": "c"}] * 3)
    other = written(tmp_path, [{"text": "t"}] * 3, "other.jsonl")
    with pytest.raises(UserError, match="give files of one format"):
        file_task(rows, test=other)


def test_answers_taken_for_labels_are_noticed(tmp_path: Path) -> None:
    rows = written(tmp_path, [{"text": f"q{i}", "label": f"answer {i}"} for i in range(101)])
    with pytest.raises(UserError, match="has 101 labels"):
        file_task(rows)
    assert file_task(rows, columns="prompt=text,completion=label").kind == "completion"


BAD: dict[str, tuple[str, str]] = {
    "an empty answer": (
        '{"prompt": "a", "completion": " "}',
        "rows.jsonl:2: 'completion' is empty",
    ),
    "no answer": ('{"prompt": "a"}', "rows.jsonl:2: no 'completion'"),
    "a number of the wrong kind": ('{"prompt": ["a"], "completion": "b"}', ":2: 'prompt' holds"),
    "NaN, as pandas has a lack": ('{"prompt": "a", "completion": NaN}', ":2: no 'completion'"),
    "no JSON": ('{"prompt": ', "rows.jsonl:2 is no JSON"),
    "no object": ("[1]", "rows.jsonl:2: '\\[1\\]' is no object"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_row_that_cannot_be_used_is_named_by_its_line(name: str, tmp_path: Path) -> None:
    line, said = BAD[name]
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"prompt": "a", "completion": "b"}}\n{line}\n')
    with pytest.raises(UserError, match=said) as error:
        file_task(str(path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"question": "q", "choices": ["x"], "answer": 0}, "'choices' holds"),
        ({"question": "q", "choices": ["x", "y"], "answer": 2}, "'answer' holds 2"),
        ({"messages": CHAT[:1]}, "no message of the assistant"),
        ({"messages": [{"role": "user"}]}, "give role and content"),
        ({"messages": [*CHAT[:1], {"role": "assistant", "content": " "}]}, "an empty message of"),
        (
            {"prompt": CHAT[:1], "completion": [{"role": "assistant", "content": ""}]},
            "an empty mes",
        ),
        (
            {"chosen": CHAT, "rejected": [*CHAT[:1], {"role": "assistant", "content": ""}]},
            "'rejected' has an empty message of the assistant",
        ),
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, "do not differ"),
        ({"chosen": "b", "rejected": "c"}, "no 'prompt'"),
        ({"text": "a", "label": 0.5}, "has the label 0.5 alone"),
        ({"text": "a", "label": "x"}, "has the label 'x' alone"),
        ({"question": "q", "choices": ["B", "A"], "answer": "A"}, "a letter of one choice and"),
        ({"question": "q", "choices": {"text": ["x", "y"], "label": 5}, "answer": 0}, "labels 5"),
        (
            {"question": "q", "choices": {"text": ["x", "y"], "label": ["A"]}, "answer": "A"},
            "one for each text",
        ),
    ],
)
def test_values_that_mean_nothing_are_refused(
    row: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=said):
        file_task(written(tmp_path, [row]))


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"test": "1.5"}, "--test 1.5 is no share"),
        ({"test": "other.jsonl"}, "cannot read other.jsonl"),
        ({"format": "chat"}, "format 'chat' is unknown"),
        ({"format": "messages"}, "which no format has"),
        ({"columns": "text"}, "is not ROLE=COLUMN"),
        ({"normalize": "max"}, "unknown normalize 'max'"),
        ({"max_length": 0}, "max_length is 0"),
        ({"beta": 0.5}, "--beta 0.5 is of preferences, and demo:completion holds prompts"),
        ({"columns": "prompt=prompt,prompt=completion"}, "names prompt twice"),
        (
            {"columns": "prompt=prompt,text2=prompt"},
            "names 'text2', which format prompt-completion",
        ),
        ({"columns": "text=prompt+completion,text2=prompt"}, "names text2 twice"),
        ({"template": "*sent_0*"}, "--template is of texts with labels"),
    ],
)
def test_options_that_cannot_be(how: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        file_task("demo:completion", **how)


def test_the_beta_of_preferences_is_above_zero() -> None:
    with pytest.raises(UserError, match="beta is 0"):
        file_task("demo:preference", beta=0.0)


def test_labels_that_only_look_like_numbers(tmp_path: Path) -> None:
    rows = [{"text": "a", "label": label} for label in ("--3", "10", "-2", "9")]
    assert file_task(written(tmp_path, rows)).labels == ("-2", "9", "10", "--3")


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("prompt,prompt,completion\na,b,c\n")
    with pytest.raises(UserError, match="two columns are called 'prompt'"):
        file_task(str(path))


def test_files_that_there_are_not_or_of_another_ending(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no demo:poems: use demo:choices"):
        file_task("demo:poems")
    packed = written(tmp_path, [{"text": "a"}], "rows.jsonl.gz")
    with pytest.raises(UserError, match=r"does not say by its ending .* \.jsonl"):
        file_task(packed)


def test_a_small_file_has_every_label_in_every_split(tmp_path: Path) -> None:
    rows = [{"text": f"text {i}", "label": ("no", "yes")[i % 2]} for i in range(8)]
    task = file_task(written(tmp_path, rows))
    found = {split: load_examples(task, split=split) for split in SPLITS}
    assert {name: len(each) for name, each in found.items()} == {"train": 4, "dev": 2, "test": 2}
    assert all({e.label for e in each} == {0, 1} for each in found.values())


def test_shares_that_leave_nothing_to_train_on() -> None:
    task = file_task("demo:completion", test="0.6", dev="0.6")
    with pytest.raises(UserError, match=r"smaller shares or files \(--test, --dev\)"):
        load_examples(task, split="train")


def test_demo_files_are_read_and_described() -> None:
    assert set(DEMO_FILES) == {
        "demo:choices", "demo:completion", "demo:labels", "demo:messages", "demo:preference",
        "demo:regression",
    }  # fmt: skip
    told = {name: described(file_task(name)) for name in DEMO_FILES}
    assert told["demo:labels"] == (
        "demo:labels: 20 rows of texts with labels (format labels), 2 labels"
    )
