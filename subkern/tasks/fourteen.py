"""The 14 tasks of the paper as data: prompts, label words and limits of LM-BFF / LM-Kernel-FT.

Label order is that code's, and it decides the order of the logits. Causal prompts are subkern's
own; their words are common enough to be single tokens for byte-level BPE tokenizers.
"""

from __future__ import annotations

from subkern.tasks.task import FileSource, HubSource, Task

__all__ = ["LMBFF_TASKS"]

_IT_WAS = "*cls**sent_0*_It_was*mask*.*sep+*"
_PAIR_QUESTION = "*cls**sent-_0*?*mask*,*+sentl_1**sep+*"
_PAIR_SAME = "*cls**sent_0**mask*,*+sentl_1**sep+*"
_REVIEW = "Review:*+sent_0*_Sentiment:"
_NLI_CAUSAL = "*sent_0*_Question:*+sent_1*_True,_false_or_unknown?_Answer:"

_GLUE = "nyu-mll/glue"
_NLI_LABELS = ("contradiction", "entailment", "neutral")
_NLI_WORDS = ("No", "Yes", "Maybe")
_NLI_CAUSAL_WORDS = ("false", "true", "unknown")
_NLI_HUB = {"0": "entailment", "1": "neutral", "2": "contradiction"}
_ENTAILMENT = ("entailment", "not_entailment")
_ENTAILMENT_HUB = {"0": "entailment", "1": "not_entailment"}


def _sentiment(name: str, **fields: object) -> Task:
    """Return a two-way sentiment task; `fields` are what differs between them."""
    common: dict[str, object] = {
        "labels": ("0", "1"),
        "label_words": ("terrible", "great"),
        "template": _IT_WAS,
        "causal_template": _REVIEW,
        "causal_label_words": ("negative", "positive"),
    }
    return Task(name=name, **(common | fields))  # type: ignore[arg-type]


_SINGLE = (
    _sentiment(
        "SST-2",
        files=FileSource(texts=(0,), label=1, format="tsv", header=True),
        hub=HubSource(_GLUE, ("sentence",), config="sst2", test="validation"),
    ),
    Task(
        name="sst-5",
        labels=("0", "1", "2", "3", "4"),
        label_words=("terrible", "bad", "okay", "good", "great"),
        template=_IT_WAS,
        causal_template="Review:*+sent_0*_The_movie_is",
        causal_label_words=("terrible", "bad", "okay", "good", "great"),
        hub=HubSource("SetFit/sst5", ("text",)),
    ),
    _sentiment(
        "mr",
        first_sent_limit=110,
        other_sent_limit=50,
        hub=HubSource("cornell-movie-review-data/rotten_tomatoes", ("text",)),
    ),
    _sentiment(
        "cr",
        first_sent_limit=110,
        other_sent_limit=50,
        hub=HubSource(
            "SetFit/CR", ("text",), label="label_text", labels={"negative": "0", "positive": "1"}
        ),
    ),
    # Not on the hub: LM-BFF's archive has it (docs/how-to/own-task.md).
    _sentiment("mpqa", first_sent_limit=110, causal_template="Phrase:*+sent_0*_Sentiment:"),
    Task(
        name="subj",
        labels=("0", "1"),
        label_words=("subjective", "objective"),
        template="*cls**sent_0*_This_is*mask*.*sep+*",
        causal_template="Sentence:*+sent_0*_Type:",
        causal_label_words=("subjective", "objective"),
        first_sent_limit=110,
        other_sent_limit=50,
        hub=HubSource(
            "SetFit/subj",
            ("text",),
            label="label_text",
            labels={"subjective": "0", "objective": "1"},
        ),
    ),
    Task(
        name="trec",
        labels=("0", "1", "2", "3", "4", "5"),
        label_words=("Description", "Entity", "Expression", "Human", "Location", "Number"),
        template="*cls**mask*:*+sent_0**sep+*",
        causal_template="Question:*+sent_0*_Type:",
        causal_label_words=("description", "entity", "expression", "person", "location", "number"),
        first_sent_limit=110,
        hub=HubSource(
            "CogComp/trec",
            ("text",),
            label="coarse_label",
            revision="refs/convert/parquet",  # its main branch is a script, which is never run
            # The hub counts ABBR, ENTY, DESC, HUM, LOC, NUM.
            labels={"0": "2", "1": "1", "2": "0", "3": "3", "4": "4", "5": "5"},
        ),
    ),
    Task(
        name="ag_news",
        labels=("1", "2", "3", "4"),
        label_words=("world", "sports", "business", "tech"),
        template="*cls**sent_0*_This_article_is_about*mask*_news.*sep+*",
        causal_template="Article:*+sent_0*_Topic:",
        causal_label_words=("world", "sports", "business", "technology"),
        max_length=256,
        first_sent_limit=240,
        files=FileSource(texts=(2,)),  # label, title (empty), description with the title in it
        hub=HubSource(
            "fancyzhx/ag_news", ("text",), labels={"0": "1", "1": "2", "2": "3", "3": "4"}
        ),
    ),
)

_PAIRS = (
    Task(
        name="MNLI",
        labels=_NLI_LABELS,
        label_words=_NLI_WORDS,
        template=_PAIR_QUESTION,
        causal_template=_NLI_CAUSAL,
        causal_label_words=_NLI_CAUSAL_WORDS,
        num_texts=2,
        max_length=256,
        first_sent_limit=240,
        files=FileSource(
            texts=(8, 9),
            label=-1,
            format="tsv",
            header=True,
            dev="dev_matched",
            test="test_matched",
        ),
        hub=HubSource(
            _GLUE,
            ("premise", "hypothesis"),
            config="mnli",
            test="validation_matched",
            labels=_NLI_HUB,
        ),
    ),
    Task(
        name="SNLI",
        labels=_NLI_LABELS,
        label_words=_NLI_WORDS,
        template=_PAIR_QUESTION,
        causal_template=_NLI_CAUSAL,
        causal_label_words=_NLI_CAUSAL_WORDS,
        num_texts=2,
        max_length=256,
        files=FileSource(texts=(7, 8), label=-1, format="tsv", header=True, ragged=True),
        hub=HubSource(
            "stanfordnlp/snli",
            ("premise", "hypothesis"),
            test="validation",
            labels=_NLI_HUB,
            skip=("-1",),
        ),
    ),
    Task(
        name="QNLI",
        labels=_ENTAILMENT,
        label_words=("Yes", "No"),
        template=_PAIR_QUESTION,
        causal_template="Question:*+sent_0*_Text:*+sent_1*_Answered:",
        causal_label_words=("Yes", "No"),
        num_texts=2,
        files=FileSource(texts=(1, 2), label=-1, format="tsv", header=True),
        hub=HubSource(
            _GLUE,
            ("question", "sentence"),
            config="qnli",
            test="validation",
            labels=_ENTAILMENT_HUB,
        ),
    ),
    Task(
        name="RTE",
        labels=_ENTAILMENT,
        label_words=("Yes", "No"),
        template=_PAIR_QUESTION,
        causal_template="*sent_0*_Question:*+sent_1*_True_or_false?_Answer:",
        causal_label_words=("true", "false"),
        num_texts=2,
        max_length=256,
        first_sent_limit=240,
        files=FileSource(texts=(1, 2), label=-1, format="tsv", header=True),
        hub=HubSource(
            _GLUE,
            ("sentence1", "sentence2"),
            config="rte",
            test="validation",
            labels=_ENTAILMENT_HUB,
        ),
    ),
    Task(
        name="MRPC",
        labels=("0", "1"),
        label_words=("No", "Yes"),
        template=_PAIR_SAME,
        causal_template="Sentence_1:*+sent_0*_Sentence_2:*+sent_1*_Same_meaning?_Answer:",
        causal_label_words=("No", "Yes"),
        num_texts=2,
        metric="f1",
        files=FileSource(texts=(3, 4), label=0, format="tsv", header=True),
        hub=HubSource(_GLUE, ("sentence1", "sentence2"), config="mrpc", test="validation"),
    ),
    Task(
        name="QQP",
        labels=("0", "1"),
        label_words=("No", "Yes"),
        template=_PAIR_SAME,
        causal_template="*sent_0**+sent_1*_Duplicate:",
        causal_label_words=("No", "Yes"),
        num_texts=2,
        metric="f1",
        files=FileSource(texts=(3, 4), label=5, format="tsv", header=True),
        hub=HubSource(_GLUE, ("question1", "question2"), config="qqp", test="validation"),
    ),
)

LMBFF_TASKS: tuple[Task, ...] = _SINGLE + _PAIRS
