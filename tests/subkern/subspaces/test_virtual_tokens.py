"""Prompt, prefix and p-tuning: virtual tokens before every text, whatever its padding.

The oracle gives one unpadded example without a mask to the bare model: embeddings joined by hand
for prompts, PEFT's own cache for prefixes. PEFT's own forward is asked too, where it has one.
"""

from __future__ import annotations

import numpy as np
import peft
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from subkern import UserError
from subkern.kernels.compute import compute_kernel
from subkern.kernels.request import RunOptions
from subkern.models.logit_model import LogitModel, WordReadout
from subkern.models.precision import KeepDouble
from subkern.prompts.prompt import EncodedExample
from subkern.subspaces.base import Peft
from tests.support import oracles
from tests.support.families import FAMILIES, POSITIONS, Family, case_id, random_examples

BY_NAME = {(f.name, f.kind): f for f in FAMILIES}
LLAMA, GPT2 = BY_NAME["llama", "causal"], BY_NAME["gpt2", "causal"]
BERT, ROBERTA = BY_NAME["bert", "encoder"], BY_NAME["roberta", "encoder"]
N = 3


def prompt() -> peft.PeftConfig:
    return peft.PromptTuningConfig(num_virtual_tokens=N)


def prefix() -> peft.PeftConfig:
    return peft.PrefixTuningConfig(num_virtual_tokens=N)


def prefix_of_mlp() -> peft.PeftConfig:
    return peft.PrefixTuningConfig(
        num_virtual_tokens=N, prefix_projection=True, encoder_hidden_size=5
    )


def p_tuning() -> peft.PeftConfig:
    return peft.PromptEncoderConfig(num_virtual_tokens=N, encoder_hidden_size=5)


BOTH = [
    ("bert", "masked"), ("roberta", "masked"), ("electra", "masked"), ("gpt2", "causal"),
    ("llama", "causal"), ("opt", "causal"), ("qwen3", "causal"), ("gemma3", "causal"),
    ("bert", "encoder"), ("roberta", "encoder"), ("gpt2", "encoder"), ("llama", "encoder"),
]  # fmt: skip
PROMPT_ONLY = [
    ("distilbert", "masked"), ("albert", "masked"), ("deberta-v3", "masked"),
    ("modernbert", "masked"), ("mamba", "causal"), ("albert", "encoder"),
]  # fmt: skip
CASES = [
    *((BY_NAME[key], make) for key in BOTH for make in (prompt, prefix)),
    *((BY_NAME[key], prompt) for key in PROMPT_ONLY),
    *((f, make) for f in (LLAMA, BERT) for make in (prefix_of_mlp, p_tuning)),
]


def name(value: object) -> str | None:
    return case_id(value) if isinstance(value, Family) else getattr(value, "__name__", None)


def by_peft(
    family: Family, config: peft.PeftConfig, seed: int
) -> tuple[LogitModel, peft.PeftModel]:
    """Return a model and PEFT's wrapper of it, drawn from `seed`, without our code."""
    model = oracles.logit_model(family)
    if config.peft_type != peft.PeftType.PREFIX_TUNING:
        config.token_dim = model.module.get_input_embeddings().weight.shape[1]
        config.num_layers = config.num_attention_heads = 1
    torch.manual_seed(seed)
    return model, peft.PeftModel(model.module, config).to(torch.float64).eval()


def logits_alone(model: LogitModel, wrapper: peft.PeftModel, example: EncodedExample) -> Tensor:
    """Return f(x), ``[c]``, of one example that is neither padded nor masked."""
    ids, module = torch.tensor([example.input_ids]), model.module
    with KeepDouble():
        virtual = wrapper.get_prompt(1)
        if wrapper.peft_type == peft.PeftType.PREFIX_TUNING:
            read, out = example.read, module(input_ids=ids, past_key_values=virtual)
        else:
            text = torch.cat([virtual, module.get_input_embeddings()(ids)], dim=1)
            read, out = example.read + N, module(inputs_embeds=text)
    if isinstance(model.readout, WordReadout):
        return out.logits[0, read, list(model.readout.label_ids)]
    linear = model.readout.linear
    return F.linear(out.last_hidden_state[0, read], linear.weight, linear.bias)


def jacobian(
    model: LogitModel, wrapper: peft.PeftModel, examples: list[EncodedExample]
) -> tuple[Tensor, np.ndarray]:
    """Return ∂f/∂z ``[n, c, P]`` and f ``[n, c]``."""
    trained = [*wrapper.prompt_encoder.parameters(), *model.readout.parameters()]
    rows, logits = [], []
    for example in examples:
        f = logits_alone(model, wrapper, example)
        rows.append(torch.stack([oracles.gradient(logit, trained) for logit in f]))
        logits.append(f.tolist())
    return torch.stack(rows), np.array(logits)


@pytest.mark.parametrize(("family", "make"), CASES, ids=name)
def test_kernel_and_start_equal_autograd_one_example_at_a_time(family: Family, make) -> None:
    batch = random_examples(5, read=family.read)
    left, right = batch[:3], batch[2:]
    model, wrapper = by_peft(family, make(), seed=4)
    (ours, f), (theirs, _) = (jacobian(model, wrapper, side) for side in (left, right))
    subspace, options = Peft(make(), seed=4), RunOptions(batch_size=3)
    kernel = compute_kernel(
        oracles.logit_model(family), left, right, subspace=subspace, options=options
    )
    assert oracles.error(kernel.values, oracles.kernel(ours, theirs)) <= 1e-8
    np.testing.assert_allclose(kernel.left_logits, f, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("family", [LLAMA, BERT], ids=case_id)
@pytest.mark.parametrize("make", [prompt, prefix])
def test_the_reference_engine_agrees(family: Family, make) -> None:
    model, batch = oracles.logit_model(family), random_examples(3, read=family.read)
    fast, slow = (
        compute_kernel(model, batch, subspace=Peft(make()), engine=engine)
        for engine in ("factors", "reference")
    )
    assert oracles.error(fast.values, slow.values) <= 1e-10


@pytest.mark.parametrize(
    ("family", "wrapper"),
    [
        (LLAMA, peft.PeftModelForCausalLM),
        (GPT2, peft.PeftModelForCausalLM),
        (BERT, peft.PeftModelForFeatureExtraction),
        (ROBERTA, peft.PeftModelForFeatureExtraction),
    ],
    ids=name,
)
@pytest.mark.parametrize("make", [prompt, prefix])
def test_outputs_are_those_of_peft_at_the_real_tokens(family: Family, wrapper, make) -> None:
    ids = torch.tensor([[5, 9, 17, 4], [8, 3, 21, 40]])
    theirs = oracles.logit_model(family)
    torch.manual_seed(2)
    peft_model = wrapper(theirs.module, make()).to(torch.float64).eval()
    attached = Peft(make(), seed=2).attach(oracles.logit_model(family)).model.module
    with torch.no_grad(), KeepDouble():
        mine = attached(ids, torch.ones_like(ids))[0]
        other = peft_model(input_ids=ids, attention_mask=torch.ones_like(ids))[0]
    torch.testing.assert_close(mine, other[:, -4:], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("family", [LLAMA, BY_NAME["roberta", "masked"]], ids=case_id)
def test_f_is_not_the_pretrained_one_and_the_base_stays(family: Family) -> None:
    model, batch = oracles.logit_model(family), random_examples(3, read=family.read)
    before = [p.detach().clone() for p in model.parameters()]
    plain = compute_kernel(model, batch).left_logits
    moved = compute_kernel(model, batch, subspace="prompt:n=2").left_logits
    assert np.abs(plain - moved).max() > 1e-3
    assert all(p.requires_grad for p in model.parameters())
    pairs = zip(before, model.parameters(), strict=True)
    assert all(torch.equal(old, new) for old, new in pairs)


def test_the_mean_is_over_the_text_alone() -> None:
    model, batch = oracles.logit_model(BERT), random_examples(1, lengths=(4,), read="first")
    model.readout.pooling = "mean"
    attached = Peft(prompt()).attach(model).model
    ids = torch.tensor([batch[0].input_ids])
    with torch.no_grad(), KeepDouble():
        hidden = attached.module(ids, torch.ones_like(ids)).last_hidden_state
        assert hidden.shape[1] == 4
        mean = model.readout.linear(hidden.mean(1))
        torch.testing.assert_close(attached(attached.collate(batch)), mean)


@pytest.mark.parametrize("make", [prompt, prefix])
def test_virtual_tokens_count_as_positions(make) -> None:
    model = oracles.logit_model(GPT2)
    fits, too_long = (random_examples(1, lengths=(POSITIONS - N + i,)) for i in (0, 1))
    compute_kernel(model, fits, subspace=Peft(make()))
    with pytest.raises(
        UserError, match=rf"has 38 tokens after {N} virtual ones and the model takes"
    ):
        compute_kernel(model, too_long, subspace=Peft(make()))


REFUSED = [
    (
        ("albert", "masked"),
        prefix(),
        r"^AlbertForMaskedLM ignores the virtual tokens of PREFIX_TUN",
    ),
    (
        ("modernbert", "masked"),
        prefix(),
        r"^PREFIX_TUNING does not work with ModernBertForMaskedLM",
    ),
    (("mamba", "causal"), prefix(), r"^PREFIX_TUNING does not work with MambaForCausalLM"),
    (
        ("llama", "causal"),
        peft.MultitaskPromptTuningConfig(num_virtual_tokens=2, num_tasks=2, num_ranks=1),
        r"^MULTITASK_PROMPT_TUNING is not supported: use an adapter or PROMPT_TUNING, P_TUNING",
    ),
]


@pytest.mark.parametrize(("key", "config", "message"), REFUSED)
def test_what_a_model_cannot_take_is_refused(
    key: tuple[str, str], config: peft.PeftConfig, message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        Peft(config).attach(oracles.logit_model(BY_NAME[key]))
    assert "\n" not in str(caught.value)
