"""Several prompts of a task: what comes with it, what users add, and the model asked with them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from subkern.errors import UserError
from subkern.models.digest import weights_digest
from subkern.models.load import load_model, load_prompt, with_prompt
from subkern.prompts.choose import MINIMAL, NamedPrompt, built_in, choose, load_prompt_file
from subkern.prompts.prompt import Prompt
from subkern.prompts.template import Label, Special, Text, format_template, parse_template
from subkern.prompts.variants import VARIANTS
from subkern.tasks.catalogue import TASKS, Task, get_task
from subkern.tasks.examples import Example
from tests.support import tiny_folder

MR = get_task("mr")
OWN_TASK = Task(
    "mine", ("a", "b"), ("no", "yes"), "*cls**sent_0*?*mask**+sent_1**sep+*", num_texts=2
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder.masked_model(tmp_path_factory.mktemp("tiny"))


# --- what comes with a task --------------------------------------------------------------------


def test_every_task_has_variants() -> None:
    assert set(VARIANTS) == set(TASKS)


@pytest.mark.parametrize("style", ["masked", "causal"])
@pytest.mark.parametrize("name", TASKS)
def test_built_in_prompts_are_well_formed(name: str, style: str) -> None:
    task = TASKS[name]
    prompts = built_in(task, style)
    assert len(prompts) >= 5
    assert len({p.name for p in prompts}) == len(prompts)
    assert len({(p.template, p.label_words) for p in prompts}) == len(prompts)
    for prompt in prompts:
        parts = parse_template(prompt.template)
        assert format_template(parts) == prompt.template
        texts = sorted(part.index for part in parts if isinstance(part, Text))
        assert texts == list(range(task.num_texts))
        assert not any(isinstance(part, Label) for part in parts)
        assert parts.count(Special("mask")) == (style == "masked")
        assert (parts[0] == Special("cls")) == (style == "masked")
        assert len(set(prompt.label_words)) == len(task.labels)
        changed = prompt.task(task, style)
        own = (changed.template, changed.label_words)
        causal = (changed.causal_template, changed.causal_label_words)
        assert {"masked": own, "causal": causal}[style] == (prompt.template, prompt.label_words)


def test_the_tasks_own_prompt_comes_first() -> None:
    first, second = built_in(MR, "masked")[:2]
    assert first == NamedPrompt("lm-bff", MR.template, ("terrible", "great"))
    assert (second.name, second.template) == (MINIMAL, "*cls**sent_0**mask**sep+*")
    first, second = built_in(MR, "causal")[:2]
    assert first == NamedPrompt("task", MR.causal_template, ("negative", "positive"))
    assert second.template == "*sent_0*"


def test_a_users_task_brings_its_own_and_the_minimal_prompt() -> None:
    assert [p.name for p in built_in(OWN_TASK, "masked")] == ["task", "minimal"]
    with pytest.raises(UserError, match="task mine has no causal_template"):
        built_in(OWN_TASK, "causal")


def test_the_swapped_words_are_the_tasks_in_another_order() -> None:
    for task in TASKS.values():
        for style in ("masked", "causal"):
            prompts = {p.name: p for p in built_in(task, style)}
            own, swapped = next(iter(prompts.values())), prompts["swapped"]
            assert swapped.template == own.template
            assert sorted(swapped.label_words) == sorted(own.label_words)
            assert swapped.label_words != own.label_words


@pytest.mark.parametrize("style", ["masked", "causal"])
def test_real_models_take_them(style: str, request: pytest.FixtureRequest) -> None:
    spec = request.getfixturevalue("minilm_mlm" if style == "masked" else "smollm2")
    tokenizer = load_prompt(spec, task=MR).tokenizer
    for task in TASKS.values():
        example = Example("x", ("One short text.", "Another one.")[: task.num_texts], 0)
        for each in built_in(task, style):
            compiled = Prompt.for_task(each.task(task, style), tokenizer, style)
            assert compiled.encode(example).read < 60


# --- choosing, and the user's own --------------------------------------------------------------


def test_choose() -> None:
    mine = NamedPrompt("mine", "*cls*so*mask*:*+sent_0**sep+*", ("bad", "good"))
    everything = choose(MR, "masked", own=[mine])
    assert [p.name for p in everything] == [*(p.name for p in built_in(MR, "masked")), "mine"]
    assert [p.asked for p in everything] == [False] * (len(everything) - 1) + [True]
    some = choose(MR, "masked", names=("cat/dog", "lm-bff", "cat/dog"))
    assert [(p.name, p.asked) for p in some] == [("cat/dog", True), ("lm-bff", True)]
    assert choose(MR, "masked", names=()) == ()


@pytest.mark.parametrize(
    ("names", "own", "message"),
    [
        (("minimum",), (), "no prompt 'minimum' for this model: did you mean 'minimal'"),
        (("zzz",), (), "they are lm-bff, minimal, this-is"),
        (None, ("minimal",), "two prompts 'minimal'"),
        ((), ("a", "a"), "two prompts 'a'"),
    ],
)
def test_choose_refuses(names: tuple[str, ...] | None, own: tuple[str, ...], message: str) -> None:
    prompts = [NamedPrompt(name, MR.template, MR.label_words) for name in own]
    with pytest.raises(UserError, match=message):
        choose(MR, "masked", names=names, own=prompts)


@pytest.mark.parametrize("suffix", ["toml", "yaml"])
def test_a_prompt_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"prompts.{suffix}"
    path.write_text(
        {
            "toml": '[[prompts]]\nname = "so"\ntemplate = "*cls**sent_0*_So*mask*.*sep+*"\n'
            '[[prompts]]\nname = "warm"\nlabel_words = ["cold", "warm"]\n',
            "yaml": "prompts:\n- name: so\n  template: '*cls**sent_0*_So*mask*.*sep+*'\n"
            "- name: warm\n  label_words: [cold, warm]\n",
        }[suffix]
    )
    assert load_prompt_file(path, MR, "masked") == (
        NamedPrompt("so", "*cls**sent_0*_So*mask*.*sep+*", ("terrible", "great"), asked=True),
        NamedPrompt("warm", MR.template, ("cold", "warm"), asked=True),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x: 1", "has no list 'prompts'"),
        ("prompts: []", "has no list 'prompts'"),
        ("prompts: [a]", "prompt 1 is 'a'"),
        ("prompts: [{name: a, words: [b]}]", "prompt 1 has an unknown field 'words'"),
        ("prompts: [{template: a}]", "prompt 1 has name None"),
        ("prompts: [{name: a}, {name: b, template: 3}]", "prompt 2 has template 3"),
        ("prompts: [{name: a, label_words: [Yes, No]}]", r"label_words \[True, False\]"),
        ("- a", "must hold 'name: value' lines, see docs/how-to/prompt.md"),
        ("a: [", "not valid YAML"),
    ],
)
def test_a_bad_prompt_file_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "prompts.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as error:
        load_prompt_file(path, MR, "masked")
    assert "\n" not in str(error.value)


def test_no_prompt_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no prompt file"):
        load_prompt_file(tmp_path / "none.toml", MR, "masked")


# --- the model asked with a prompt -------------------------------------------------------------


def test_with_prompt_is_the_model_loaded_with_it(tiny: Path) -> None:
    model = load_model(tiny, task=MR, logits="auto")
    prompt = next(p for p in built_in(MR, "masked") if p.name == "bad/good")
    asked = with_prompt(model, prompt.task(MR, "masked"))
    loaded = load_model(tiny, task=prompt.task(MR, "masked"), logits="auto")
    assert asked.module is model.module
    assert asked.description == loaded.description != model.description
    example = Example("x", ("film was great .",), 1)
    batches = [m.collate(m.prompt.encode_all([example])) for m in (asked, loaded)]  # type: ignore[union-attr]
    assert torch.equal(asked(batches[0]), loaded(batches[1]))
    assert not torch.equal(asked(batches[0]), model(batches[0]))


def test_with_prompt_needs_a_model_that_reads_words(tiny: Path) -> None:
    with pytest.raises(UserError, match="linear head reads no label words"):
        with_prompt(load_model(tiny, task=MR, head="linear"), MR)


@pytest.mark.parametrize("head", ["prompt", "linear"])
def test_random_weights(tiny: Path, head: str) -> None:
    before = torch.random.get_rng_state()
    models = [
        load_model(tiny, task=MR, head=head, weights=weights, seed=seed)
        for weights, seed in (("pretrained", 0), ("random", 0), ("random", 0), ("random", 1))
    ]
    if head == "prompt":  # a linear layer of torch draws once more than it is told to
        assert torch.equal(torch.random.get_rng_state(), before)
    digests = [weights_digest(model) for model in models]
    assert digests[1] == digests[2]
    assert len(set(digests)) == 3
    assert "weights" not in models[0].description
    assert models[1].description["weights"] == "random"
    assert models[3].description["weights_seed"] == 1
    names = [list(dict(model.module.named_parameters())) for model in models[:2]]
    assert names[0] == names[1]
    assert not models[1].training
    embedding = models[1].module.get_input_embeddings().weight  # type: ignore[operator]
    assert 0.015 < embedding.std() < 0.025  # BERT's initializer_range
    if head == "prompt":
        assert models[1].module.get_output_embeddings().weight is embedding  # type: ignore[operator]


def test_unknown_weights(tiny: Path) -> None:
    with pytest.raises(UserError, match="unknown weights 'trained': use pretrained or random"):
        load_model(tiny, task=MR, weights="trained")
