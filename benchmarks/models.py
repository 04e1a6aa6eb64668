"""The models and examples that are timed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.problem import Examples, Problem
from subkern.models.demo import demo_path
from subkern.models.load import load_model
from subkern.models.logit_model import LogitModel, WordReadout
from subkern.prompts.prompt import EncodedExample, Prompt
from subkern.tasks.catalogue import Task, get_task
from subkern.tasks.examples import load_examples

SHARED = Path(os.environ.get("SUBKERN_SHARED", Path(__file__).resolve().parents[2] / "shared"))
"""Where a masked MiniLM and the SST-2 files may be; nothing here needs them."""

SHOTS, SEED = 16, 13


def smollm2(left: int, right: int) -> Problem:
    """SmolLM2-135M on film reviews: 16 shots of training examples against test examples."""
    task = get_task("mr")
    model = load_model("demo:smollm2", task=task, logits="binary")
    title = "SmolLM2-135M (causal LM, tied), mr"
    return _problem("smollm2-mr", title, model, task, "demo", left, right)


def minilm(left: int, right: int) -> Problem:
    """MiniLM-L6 with a masked-LM head on SST-2, or what of it is there."""
    task, data, texts = _sst2()
    trained = SHARED / "models" / "minilm-mlm"
    if trained.is_dir():
        model = load_model(trained, task=task, logits="binary")
        title = f"MiniLM-L6 (masked LM, tied), {texts}"
    else:
        model = _headed_minilm(task)
        title = f"MiniLM-L6 (masked LM, tied, head untrained), {texts}"
    return _problem("minilm-sst2", title, model, task, data, left, right)


def tiny_masked(left: int, right: int) -> Problem:
    """A random BERT of a few thousand parameters."""
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(
        vocab_size=61, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=24, max_position_embeddings=40, initializer_range=0.3,
    )  # fmt: skip
    return _tiny("tiny-bert", BertForMaskedLM, config, left, right)


def tiny_causal(left: int, right: int) -> Problem:
    """A random Llama of a few thousand parameters."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=61, hidden_size=16, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, intermediate_size=24, max_position_embeddings=40,
        initializer_range=0.3, tie_word_embeddings=True,
    )  # fmt: skip
    return _tiny("tiny-llama", LlamaForCausalLM, config, left, right)


PROBLEMS: dict[str, Callable[[int, int], Problem]] = {"minilm": minilm, "smollm2": smollm2}
QUICK_PROBLEMS: dict[str, Callable[[int, int], Problem]] = {
    "minilm": tiny_masked,
    "smollm2": tiny_causal,
}


def _problem(
    name: str, title: str, model: LogitModel, task: Task, data: str | Path, left: int, right: int
) -> Problem:
    assert model.prompt is not None
    sides = {}
    for split, limit in (("train", left), ("test", right)):
        examples = load_examples(task, data, split=split, shots=SHOTS, seed=SEED, limit=limit)
        sides[split] = model.prompt.encode_all(examples)
    return Problem(name, title, model, sides["train"], sides["test"])


def _sst2() -> tuple[Task, str | Path, str]:
    """SST-2 if its files are there, else sentences of mr, which are about as long."""
    folder = SHARED / "data" / "k-shot-1k-test"
    if (folder / "SST-2").is_dir():
        return get_task("SST-2"), folder, "SST-2"
    return get_task("mr"), "demo", "mr (no SST-2 files here)"


def _headed_minilm(task: Task) -> LogitModel:
    """The demo's MiniLM encoder under a masked-LM head: tied decoder, seeded random transform.

    How long a kernel takes does not depend on the weights.
    """
    from transformers import AutoConfig, AutoTokenizer, BertForMaskedLM, BertModel

    path = demo_path("demo:minilm")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = BertForMaskedLM(AutoConfig.from_pretrained(path))
    encoder = BertModel.from_pretrained(path, add_pooling_layer=False)
    module.bert.load_state_dict(encoder.state_dict())
    tokenizer = AutoTokenizer.from_pretrained(path)
    prompt = Prompt.for_task(task, tokenizer, "masked")
    readout = WordReadout(prompt.label_ids)
    model = LogitModel(
        module,
        readout,
        binary=True,
        tokenizer=tokenizer,
        prompt=prompt,
        description={"name": "demo:minilm", "head": "masked LM, seed 0"},
    )
    return model.float().eval()


def _tiny(name: str, kind: Any, config: Any, left: int, right: int) -> Problem:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = kind(config)
    description = {"name": name, "weights": "random, seed 0"}
    model = LogitModel(module, WordReadout((5, 7)), binary=True, description=description).eval()
    return Problem(name, f"{name} (random)", model, _random(left, 1), _random(right, 2))


def _random(count: int, seed: int) -> Examples:
    """Examples of 5 to 9 random tokens that read their last one."""
    generator = torch.Generator().manual_seed(seed)
    examples = []
    for i in range(count):
        ids = torch.randint(3, 61, (5 + i % 5,), generator=generator).tolist()
        examples.append(EncodedExample(f"x-{seed}-{i}", i % 2, tuple(ids), len(ids) - 1))
    return examples
