"""Answers as marked sequences: which tokens are marked, and what is cut."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from subkern.errors import UserError
from subkern.kernels.compute import compute_kernel
from subkern.models.load import load_model
from subkern.prompts.prompt import EncodedExample, Prompt
from subkern.prompts.sequences import CutWarning
from subkern.tasks.examples import load_examples
from subkern.tasks.own_file import file_task
from tests.support.byte_tokenizer import CHATML, MARKING, byte_tokenizer
from tests.support.tiny_folder import masked_model

TALK = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "Bye"},
    {"role": "assistant", "content": "See you."},
]


def encoded(
    folder: Path, row: dict[str, Any], template: str | None = CHATML, **how: Any
) -> tuple[EncodedExample, Prompt]:
    """The first of ten equal rows."""
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [row] * 10))
    task = file_task(str(path), **how)
    prompt = Prompt.for_task(task, byte_tokenizer(template), "causal")
    return prompt.encode_all(load_examples(task, "", split="train"))[0], prompt


def marked_text(found: EncodedExample, prompt: Prompt, k: int = 0) -> str:
    m = found.marked[k]
    assert m.targets == tuple(m.input_ids[at + 1] for at in m.reads)
    return str(prompt.tokenizer.decode(m.targets))


def test_the_answer_and_the_token_that_ends_it_are_marked(tmp_path: Path) -> None:
    found, prompt = encoded(tmp_path, {"prompt": "What?", "completion": " That."})
    assert marked_text(found, prompt) == " That.<eos>"
    assert prompt.tokenizer.decode(found.input_ids) == "What? That.<eos>"
    assert found.label == len(" That.") + 1  # over how many tokens the logit sums
    mean, _ = encoded(tmp_path, {"prompt": "What?", "completion": " That."}, normalize="mean")
    assert mean.label == 1
    assert mean.marked[0].weight == pytest.approx(1 / 7)


def test_of_a_text_every_token_with_one_before_it_is_marked(tmp_path: Path) -> None:
    found, prompt = encoded(tmp_path, {"text": "All of it"})
    assert marked_text(found, prompt) == "ll of it<eos>"


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (CHATML, "Hello.<|im_end|>\nSee you.<|im_end|>\n"),
        (MARKING, "Hello.<|im_end|>See you.<|im_end|>"),
    ],
)
def test_the_assistants_turns_are_marked(template: str, said: str, tmp_path: Path) -> None:
    """By what the template writes after each prompt, or where it says so itself."""
    found, prompt = encoded(tmp_path, {"messages": TALK}, template)
    assert marked_text(found, prompt) == said


def test_a_template_that_rewrites_earlier_turns_is_refused(tmp_path: Path) -> None:
    last_only = CHATML.replace("m['content']", "(m['content'] if loop.last else '...')")
    with pytest.raises(UserError, match="writes earlier turns in another way"):
        encoded(tmp_path, {"messages": TALK}, last_only)


def test_chats_need_a_template(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no chat template"):
        encoded(tmp_path, {"messages": TALK}, None)
    row = {"instruction": "Add", "output": "3"}
    chat, prompt = encoded(tmp_path, row)
    assert prompt.tokenizer.decode(chat.input_ids).startswith("<|im_start|>user\nAdd<|im_end|>")
    text, prompt = encoded(tmp_path, row, None)
    assert marked_text(text, prompt) == "3<eos>"


def test_options_are_sequences_of_logits_of_their_own(tmp_path: Path) -> None:
    found, prompt = encoded(
        tmp_path, {"question": "Which?", "choices": ["this", "that one"], "answer": 1}
    )
    assert [m.logit for m in found.marked] == [0, 1]
    assert [marked_text(found, prompt, k) for k in (0, 1)] == [" this", " that one"]
    assert prompt.tokenizer.decode(found.marked[0].input_ids) == "Question: Which?\nAnswer: this"
    assert (found.label, len(found.offsets)) == (1, 2)


def test_a_preference_weighs_its_answers_by_beta(tmp_path: Path) -> None:
    row = {
        "prompt": TALK[:1],
        "chosen": TALK[1:2],
        "rejected": [{"role": "assistant", "content": "No"}],
    }
    found, prompt = encoded(tmp_path, row, beta=0.3)
    assert [m.weight for m in found.marked] == [0.3, -0.3]
    assert [marked_text(found, prompt, k) for k in (0, 1)] == [
        "Hello.<|im_end|>\n",
        "No<|im_end|>\n",
    ]


def test_labels_of_several_tokens_are_sequences_and_of_one_words(tmp_path: Path) -> None:
    rows = [{"text": f"t{i}", "label": ("ham", "no ham")[i % 2]} for i in range(20)]
    path = tmp_path / "mails.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = file_task(str(path))
    prompt = Prompt.for_task(task, byte_tokenizer(), "causal")
    found = prompt.encode_all(load_examples(task, "", split="train"))[0]
    assert [marked_text(found, prompt, k) for k in (0, 1)] == [" ham", " no ham"]
    assert prompt.tokenizer.decode(found.marked[0].input_ids).endswith("\nAnswer: ham")
    assert not prompt.label_ids


def test_a_long_row_loses_the_beginning_of_its_prompt_and_is_counted(tmp_path: Path) -> None:
    row = {"prompt": "x" * 30, "completion": "answer"}
    with pytest.warns(
        CutWarning, match="7 of 7 rows are longer than 20 tokens and lost the beginning"
    ):
        found, prompt = encoded(tmp_path, row, max_length=20)
    assert prompt.tokenizer.decode(found.input_ids) == "x" * 13 + "answer<eos>"
    assert marked_text(found, prompt) == "answer<eos>"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoded(tmp_path, row, max_length=37)
    with pytest.raises(UserError, match="its answer has 7 tokens, and sequences have at most 7"):
        encoded(tmp_path, row, max_length=7)


def test_a_long_chat_keeps_its_last_answer(tmp_path: Path) -> None:
    with pytest.warns(CutWarning):
        found, prompt = encoded(tmp_path, {"messages": TALK}, max_length=30)
    assert marked_text(found, prompt).endswith("See you.<|im_end|>\n")
    assert len(found.input_ids) == 30


def test_kinds_that_only_causal_models_tell_are_refused_for_others(tmp_path: Path) -> None:
    task = file_task("demo:completion")
    for style in ("masked", "plain"):
        with pytest.raises(UserError, match="is of kind completion"):
            Prompt.for_task(task, byte_tokenizer(), style)


def test_what_is_marked_can_be_shown(tmp_path: Path) -> None:
    _, prompt = encoded(tmp_path, {"prompt": "What?", "completion": " That."})
    assert ">>T<< >>h<<" in prompt.render(load_examples(prompt.task, "", split="train")[0])


def test_labels_of_several_tokens_are_as_many_masks_of_a_masked_model(tmp_path: Path) -> None:
    folder = masked_model(
        tmp_path / "m", ("it", "film", "great", "bad", "plot", "Answer", ":", ".")
    )
    rows = tmp_path / "films.csv"
    rows.write_text("text,label\n" + "it film,great film\nit plot,bad\n" * 10)
    task = file_task(str(rows))
    model = load_model(folder, task=task, dtype="float64")
    found = model.encode_all(load_examples(task, split="train"))
    mask = model.tokenizer.mask_token_id
    assert model.num_logits == 2
    for e in found:
        assert [len(m.targets) for m in e.marked] == [1, 2]  # bad, great film
        for m in e.marked:
            assert [i for i, token in enumerate(m.input_ids) if token == mask] == list(m.reads)
    assert model.tokenizer.decode(found[0].marked[1].targets) == "great film"
    fast, slow = (compute_kernel(model, found[:3], engine=e) for e in ("factors", "reference"))
    np.testing.assert_allclose(fast.values, slow.values, rtol=1e-8, atol=1e-12)
