"""Tasks: the table of the 14, look-up, and tasks of the user's own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from subkern.errors import UserError
from subkern.prompts.template import Literal, Special, Text, parse_template
from subkern.tasks.catalogue import TASKS, FileSource, HubSource, Task, get_task

IT_WAS = "*cls**sent_0*_It_was*mask*.*sep+*"
QUESTION = "*cls**sent-_0*?*mask*,*+sentl_1**sep+*"
SAME = "*cls**sent_0**mask*,*+sentl_1**sep+*"

# labels -> words, template, max_length, first and other sentence limit, metric: run_fewshot.sh of
# LM-Kernel-FT, with the label order of its processors.
PAPER = {
    "SST-2": ("0 1", "terrible great", IT_WAS, 128, None, None, "accuracy"),
    "mr": ("0 1", "terrible great", IT_WAS, 128, 110, 50, "accuracy"),
    "cr": ("0 1", "terrible great", IT_WAS, 128, 110, 50, "accuracy"),
    "mpqa": ("0 1", "terrible great", IT_WAS, 128, 110, None, "accuracy"),
    "sst-5": ("0 1 2 3 4", "terrible bad okay good great", IT_WAS, 128, None, None, "accuracy"),
    "subj": (
        "0 1",
        "subjective objective",
        "*cls**sent_0*_This_is*mask*.*sep+*",
        128,
        110,
        50,
        "accuracy",
    ),
    "trec": (
        "0 1 2 3 4 5",
        "Description Entity Expression Human Location Number",
        "*cls**mask*:*+sent_0**sep+*",
        128,
        110,
        None,
        "accuracy",
    ),
    "ag_news": (
        "1 2 3 4",
        "world sports business tech",
        "*cls**sent_0*_This_article_is_about*mask*_news.*sep+*",
        256,
        240,
        None,
        "accuracy",
    ),
    "MNLI": (
        "contradiction entailment neutral",
        "No Yes Maybe",
        QUESTION,
        256,
        240,
        None,
        "accuracy",
    ),
    "SNLI": (
        "contradiction entailment neutral",
        "No Yes Maybe",
        QUESTION,
        256,
        None,
        None,
        "accuracy",
    ),
    "QNLI": ("entailment not_entailment", "Yes No", QUESTION, 128, None, None, "accuracy"),
    "RTE": ("entailment not_entailment", "Yes No", QUESTION, 256, 240, None, "accuracy"),
    "MRPC": ("0 1", "No Yes", SAME, 128, None, None, "f1"),
    "QQP": ("0 1", "No Yes", SAME, 128, None, None, "f1"),
}


def test_there_are_14_tasks() -> None:
    assert set(TASKS) == set(PAPER)
    assert len(TASKS) == 14


@pytest.mark.parametrize("name", PAPER)
def test_task_is_the_papers(name: str) -> None:
    task = TASKS[name]
    assert (
        " ".join(task.labels),
        " ".join(task.label_words),
        task.template,
        task.max_length,
        task.first_sent_limit,
        task.other_sent_limit,
        task.metric,
    ) == PAPER[name]


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda t: t.name)
def test_causal_template_ends_where_the_word_comes(task: Task) -> None:
    parts = parse_template(task.causal_template)
    assert not any(isinstance(part, Special) for part in parts)
    assert {p.index for p in parts if isinstance(p, Text)} == set(range(task.num_texts))
    assert isinstance(parts[-1], Literal)
    assert not parts[-1].text.endswith(" ")
    assert len(task.causal_label_words) == len(task.labels)


@pytest.mark.parametrize("name", ["SST-2", "sst-2", "Mnli", "MR", "AG_NEWS"])
def test_lookup_ignores_case(name: str) -> None:
    assert get_task(name).name.lower() == name.lower()


def test_unknown_task_names_the_closest() -> None:
    with pytest.raises(UserError, match=r"unknown task 'sst2'.*SST-2"):
        get_task("sst2")
    with pytest.raises(UserError, match=r"unknown task 'zzz'.*SST-2.*QQP"):
        get_task("zzz")


TOML = """
name = "spam"
labels = [0, 1]
label_words = ["good", "bad"]
template = "*cls**sent_0*_It_was*mask*.*sep+*"
causal_template = "Mail:*+sent_0*_Kind:"
max_length = 64
first_sent_limit = 40

[files]
texts = ["body"]
label = "kind"

[hub]
path = "someone/mail"
texts = ["body"]
skip = [-1]
labels = { ham = 0, spam = 1 }
"""

YAML = """
name: spam
labels: [0, 1]
label_words: [good, bad]
template: "*cls**sent_0*_It_was*mask*.*sep+*"
causal_template: "Mail:*+sent_0*_Kind:"
max_length: 64
first_sent_limit: 40
files: {texts: [body], label: kind}
hub: {path: someone/mail, texts: [body], skip: -1, labels: {ham: 0, spam: 1}}
"""

SPAM = Task(
    name="spam",
    labels=("0", "1"),
    label_words=("good", "bad"),
    template=IT_WAS,
    causal_template="Mail:*+sent_0*_Kind:",
    max_length=64,
    first_sent_limit=40,
    files=FileSource(texts=("body",), label="kind", header=True),
    hub=HubSource("someone/mail", ("body",), labels={"ham": "0", "spam": "1"}, skip=("-1",)),
)


@pytest.mark.parametrize(("name", "text"), [("t.toml", TOML), ("t.yaml", YAML), ("t.yml", YAML)])
def test_own_task_from_a_file(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    assert get_task(path) == get_task(str(path)) == SPAM


def test_number_of_texts_follows_the_columns(tmp_path: Path) -> None:
    path = tmp_path / "pair.toml"
    path.write_text(
        'name="p"\nlabels=["n","y"]\nlabel_words=["No","Yes"]\n'
        'template="*cls**sent_0*?*mask*,*+sentl_1**sep+*"\n[files]\ntexts=[1,2]\n'
    )
    task = get_task(path)
    assert task.num_texts == 2
    assert not task.file_source.header


MINIMAL = 'name="p"\nlabels=["n","y"]\nlabel_words=["No","Yes"]\ntemplate="*cls**sent_0**mask*"\n'


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.toml", MINIMAL + "lables = 3\n", "unknown field 'lables': did you mean 'labels'"),
        ("t.toml", MINIMAL + "[files]\ntext = [1]\n", "'files.text': did you mean 'texts'"),
        ("t.toml", 'name = "p"\n', "'labels' is missing"),
        ("t.toml", MINIMAL.replace("template", "causal_x"), "unknown field 'causal_x'"),
        ("t.toml", MINIMAL + "kind = 'regression'\n", "kind 'regression' is of data files"),
        ("t.toml", "name = \n", "not valid TOML"),
        ("t.toml", MINIMAL + 'max_length = "9"\n', "'max_length' must be a whole number, not '9'"),
        ("t.toml", MINIMAL + 'metric = "mcc"\n', "metric 'mcc' is not one of accuracy, f1"),
        ("t.toml", MINIMAL + 'metric = "r2"\n', "metric 'r2' is not one of accuracy, f1"),
        ("t.toml", MINIMAL + "[files]\nlabel = true\n", "must be column names or numbers"),
        ("t.toml", MINIMAL + '[files]\nheader = "no"\n', "must be true or false, not 'no'"),
        ("t.toml", MINIMAL + '[hub]\npath = "x"\n', "'hub.texts' is missing"),
        ("t.yaml", "name: p\nlabels: [n, y]\nlabel_words: [No, Yes]\ntemplate: x", "in quotes"),
        ("t.yaml", "name: [", "not valid YAML"),
        ("t.yaml", "just words", "'name: value' lines, see docs/how-to/own-task.md"),
    ],
)
def test_bad_task_file_is_one_clear_line(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        get_task(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_task_file() -> None:
    with pytest.raises(UserError, match=r"no task file 'nowhere\.toml'"):
        get_task("nowhere.toml")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": ""}, "needs a name"),
        ({"labels": ("0",), "label_words": ("good",)}, "at least 2"),
        ({"labels": ("0", "0")}, "repeated"),
        ({"label_words": ("good",)}, r"1 label_words \(good\) for 2 labels"),
        ({"causal_label_words": ("a", "b", "c")}, "3 causal_label_words"),
        ({"num_texts": 3}, "1 or 2"),
        ({"num_texts": 2}, r"1 text columns are named: body"),
        ({"max_length": 0}, "max_length is 0"),
        (
            {"labels": tuple("abc"), "label_words": tuple("abc"), "metric": "f1"},
            "f1 needs 2 labels",
        ),
    ],
)
def test_contradicting_fields_are_refused(change: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        replace(SPAM, **change)


def test_named_column_needs_a_header() -> None:
    with pytest.raises(UserError, match="header"):
        FileSource(texts=("body",))
    with pytest.raises(UserError, match="'json'"):
        FileSource(format="json")


@pytest.mark.parametrize("name", ["..", ".", "a/b", "../a", "a\\b", " ", "a\nb", "a\0b", "x" * 300])
def test_a_name_that_leaves_its_folder_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="plain name") as caught:
        replace(TASKS["mr"], name=name)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="plain name"):
        FileSource(folder=name)


@pytest.mark.parametrize("name", ["../train", "/etc/passwd", "", "a//b"])
def test_a_split_file_outside_the_folder_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="plain name"):
        FileSource(train=name)
