"""What a task is: labels, label words, prompts, metric, and where its columns stand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from subkern.errors import UserError, check_choice

__all__ = ["Column", "FileRows", "FileSource", "HubSource", "Task"]

Column = int | str  # position (negative from the end) or name in the header
METRICS = {"completion": ("log_likelihood",), "regression": ("pearson", "spearman", "r2")}
"""By kind of task; of the others accuracy and F1."""
KINDS = ("words", "labels", "choices", "completion", "preference", "regression")
NORMALIZERS = ("sum", "mean")


@dataclass(frozen=True)
class FileSource:
    """How the files of a task are read: ``<root>/<folder>/<k>-<seed>/<split>.<format>``.

    Attributes:
        texts: columns of the texts, by position or, with a header, by name.
        label: column of the label.
        format: ``"csv"`` (quoted, comma) or ``"tsv"`` (tab, a quote is an ordinary character).
        header: the first row names the columns.
        ragged: rows may differ in length (SNLI: a varying number of annotators before the label).
        train, dev, test: file names of the splits, without the ending.
        folder: folder of the task below the root; empty: the task's name.
    """

    texts: tuple[Column, ...] = (1,)
    label: Column = 0
    format: str = "csv"
    header: bool = False
    ragged: bool = False
    train: str = "train"
    dev: str = "dev"
    test: str = "test"
    folder: str = ""

    def __post_init__(self) -> None:
        if self.format not in ("csv", "tsv"):
            raise UserError(f"unknown file format '{self.format}': use 'csv' or 'tsv'")
        if self.folder:
            _check_place("folder of the files", self.folder, single=True)
        for split in ("train", "dev", "test"):
            _check_place(f"{split} of the files", getattr(self, split), single=False)
        named = [c for c in (*self.texts, self.label) if isinstance(c, str)]
        if named and not self.header:
            raise UserError(
                f"column '{named[0]}' is named but header is false: "
                "set header = true or give the column's number"
            )

    def file_name(self, split: str) -> str:
        """Return the file of `split` ("train", "dev" or "test")."""
        stem = {"train": self.train, "dev": self.dev, "test": self.test}[split]
        return f"{stem}.{self.format}"


@dataclass(frozen=True)
class HubSource:
    """Where a task is on the Hugging Face hub.

    Attributes:
        path, config, revision: as ``datasets.load_dataset`` takes them.
        texts, label: column names.
        train, test: split names; dev is sampled from train, as LM-BFF does.
        labels: hub label (as a string) → the task's label; empty: they are the same.
        skip: hub labels whose rows are left out (SNLI's unlabelled rows).
    """

    path: str
    texts: tuple[str, ...]
    label: str = "label"
    config: str | None = None
    revision: str | None = None
    train: str = "train"
    test: str = "test"
    labels: Mapping[str, str] = field(default_factory=dict)
    skip: tuple[str, ...] = ()


@dataclass(frozen=True)
class FileRows:
    """Examples that stand in a file of their own, or in a data set of the hub.

    Attributes:
        data: the file, or the data set.
        test: a file, or the share of `data` that is drawn for tests.
        dev: likewise.
        format: of `subkern.tasks.formats.FORMATS`.
        columns: role → column, those that are not called as their role.
    """

    data: str
    test: str = "0.2"
    dev: str = "0.1"
    format: str = ""
    columns: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Task:
    """What is learned: data, so that nothing else needs to know its name.

    By its kind f(x) is, and the loss is of it:

    * ``words``: the logits of one word a label; cross-entropy;
    * ``labels``: the log-likelihoods of the labels after the prompt, of any number of tokens (where
      each is one token, the logits of ``words``: the loss is the same); cross-entropy;
    * ``choices``: those of an example's own options after its question; cross-entropy;
    * ``completion``: the log-likelihood of an answer after its prompt; minus it;
    * ``preference``: β (log-likelihood of the chosen answer − of the rejected one), less what it
      is at θ₀; logistic loss;
    * ``regression``: the one output of a linear head, for a real label as its distance from
      `center` in units of `spread`; squared loss.

    Attributes:
        name: as users write it; looked up without regard to case.
        labels: as they stand in the files, in logit order. The order decides the sign of the
            binary logit f_1 − f_0.
        label_words: word per label for masked models, without the leading space.
        template: masked prompt in LM-BFF's notation (see `subkern.prompts.template`).
        causal_template: prompt for causal models: no ``*cls*``, ``*mask*``, ``*sep*``; it ends
            where the label word comes next.
        causal_label_words: word per label for causal models; empty: `label_words`.
        num_texts: texts per example, 1 or 2.
        metric: ``"accuracy"``, or ``"f1"`` of label 1 (two labels only); of completions
            ``"log_likelihood"``, of a regression ``"pearson"``, ``"spearman"`` or ``"r2"``.
        max_length: longest prompt in tokens, special tokens included.
        first_sent_limit, other_sent_limit: most tokens of text 0 and of the others.
        files: how its files are read; ``None``: headerless CSV ``label,text[,text]``.
        hub: where it is on the hub, if it is there.
        kind: what f is.
        normalize: whether a log-likelihood is the ``sum`` over its tokens or their ``mean``.
        beta: β of preferences.
        rows: where its examples are, if in a file of their own.
        center, spread: of real labels, their mean and standard deviation in that file.

    Raises:
        UserError: fields that contradict each other.
    """

    name: str
    labels: tuple[str, ...]
    label_words: tuple[str, ...]
    template: str
    causal_template: str = ""
    causal_label_words: tuple[str, ...] = ()
    num_texts: int = 1
    metric: str = "accuracy"
    max_length: int = 128
    first_sent_limit: int | None = None
    other_sent_limit: int | None = None
    files: FileSource | None = None
    hub: HubSource | None = None
    kind: str = "words"
    normalize: str = "sum"
    beta: float = 0.1
    rows: FileRows | None = None
    center: float = 0.0
    spread: float = 1.0

    def __post_init__(self) -> None:
        if not self.name:
            raise UserError("a task needs a name")
        _check_place("a task's name", self.name, single=True)
        check_choice("kind of a task", self.kind, KINDS)
        check_choice("normalize", self.normalize, NORMALIZERS)
        if not 0 < self.beta < float("inf"):
            raise UserError(f"beta is {self.beta}: give a number above 0 (0.1)")
        if self.kind in ("words", "labels"):
            self._check_labels()
            self._check_words("label_words", self.label_words, bool(self.template))
            self._check_words("causal_label_words", self.causal_label_words, False)
        if self.num_texts not in (1, 2):
            raise UserError(f"task {self.name}: num_texts is {self.num_texts}, it must be 1 or 2")
        metrics = METRICS.get(self.kind, ("accuracy", "f1"))
        if self.metric not in metrics:
            raise UserError(
                f"task {self.name}: metric '{self.metric}' is not one of {', '.join(metrics)}"
            )
        if self.metric == "f1" and len(self.labels) != 2:
            raise UserError(
                f"task {self.name}: metric f1 needs 2 labels, not {len(self.labels)}: use accuracy"
            )
        self._check_lengths()
        for source in (self.files, self.hub):
            if source is not None and len(source.texts) != self.num_texts:
                raise UserError(
                    f"task {self.name}: num_texts is {self.num_texts} but {len(source.texts)} "
                    f"text columns are named: {', '.join(map(str, source.texts))}"
                )

    @property
    def marked(self) -> bool:
        """Whether its examples are answers with marked tokens, not texts that are classified."""
        return self.kind not in ("words", "labels", "regression")

    @property
    def classifies(self) -> bool:
        """Whether an example's label is one of several, to be told from the others."""
        return self.kind in ("words", "labels", "choices")

    @property
    def num_logits(self) -> int:
        """Logits c of f."""
        return 1 if self.kind in ("completion", "preference", "regression") else len(self.labels)

    @property
    def loss(self) -> str:
        """The loss of its kind."""
        return {"completion": "likelihood", "regression": "squared"}.get(self.kind, "cross_entropy")

    def check_loss(self, loss: str) -> None:
        """Refuse a loss that is of tasks of another kind.

        Raises:
            UserError: it is.
        """
        own = {"completion": ("likelihood",), "regression": ("squared",)}
        fitting = own.get(self.kind, ("cross_entropy", "squared"))
        if loss in ("cross_entropy", "squared", "likelihood") and loss not in fitting:
            said = {"completion": "completions", "regression": "real labels"}.get(
                self.kind, "labels"
            )
            raise UserError(f"loss '{loss}' is not of {said}: use {' or '.join(fitting)}")

    @property
    def file_source(self) -> FileSource:
        """How its files are read, with the default filled in."""
        return self.files or FileSource(texts=tuple(range(1, self.num_texts + 1)))

    @property
    def folder(self) -> str:
        """Folder of the task below a data root."""
        return self.file_source.folder or self.name

    def _check_labels(self) -> None:
        if len(self.labels) < 2:
            raise UserError(f"task {self.name}: {len(self.labels)} label(s), it needs at least 2")
        if len(set(self.labels)) < len(self.labels):
            raise UserError(f"task {self.name}: a label is repeated in {', '.join(self.labels)}")

    def _check_words(self, what: str, words: tuple[str, ...], required: bool) -> None:
        if len(words) != len(self.labels) and (words or required):
            raise UserError(
                f"task {self.name}: {len(words)} {what} ({', '.join(words)}) for "
                f"{len(self.labels)} labels ({', '.join(self.labels)}): give one word per label"
            )

    def _check_lengths(self) -> None:
        for what in ("max_length", "first_sent_limit", "other_sent_limit"):
            value = getattr(self, what)
            if value is not None and value < 1:
                raise UserError(f"task {self.name}: {what} is {value}, it must be at least 1")


def _check_place(what: str, name: str, *, single: bool) -> None:
    """Refuse a name that folders and files are called by and that leads out of where they are."""
    parts = name.replace("\\", "/").split("/")
    strange = not name.strip() or not name.isprintable() or len(name) > 100
    if strange or {".", "..", ""} & set(parts) or (single and len(parts) > 1):
        raise UserError(f"{what} is {name!r}: give a plain name, without '/' or '..'")
