"""What is trained: parameters by name, adapters, and the one-line forms of both."""

from __future__ import annotations

import json
import re

import peft
import pytest

from subkern import UserError
from subkern.kernels.compute import compute_kernel
from subkern.kernels.sweeps.lora import LoraGrid, sweep_lora
from subkern.models.logit_model import LogitModel, named_parameters, parameter_path
from subkern.subspaces.base import Full, ParameterSubset, Peft, Subspace
from subkern.subspaces.lora import Lora
from subkern.subspaces.text import parse_subspace, parse_targets
from tests.support import oracles
from tests.support.families import FAMILIES, Family, case_id, random_examples

BY_NAME = {(f.name, f.kind): f for f in FAMILIES}
LLAMA, BERT = BY_NAME["llama", "causal"], BY_NAME["bert", "masked"]
ENCODER = BY_NAME["bert", "encoder"]


@pytest.mark.parametrize("family", FAMILIES, ids=case_id)
def test_full_is_every_parameter_once(family: Family) -> None:
    model = oracles.logit_model(family)
    coordinates = Full().attach(model)
    assert coordinates.model is model
    assert {id(p) for p in coordinates.parameters.values()} == {id(p) for p in model.parameters()}
    assert coordinates.size == sum(p.numel() for p in model.parameters())
    for name, parameter in coordinates.parameters.items():
        assert model.get_parameter(parameter_path(name)) is parameter


@pytest.mark.parametrize("family", [BERT, ENCODER, LLAMA], ids=case_id)
@pytest.mark.parametrize("pattern", [r"bias$", r"layers?\.1\.", r"^readout\.", "."])
def test_subset_is_what_the_pattern_matches(family: Family, pattern: str) -> None:
    model = oracles.logit_model(family)
    names = {n for n in named_parameters(model) if re.search(pattern, n)}
    if names:
        assert ParameterSubset(pattern).attach(model).parameters.keys() == names
    else:
        with pytest.raises(UserError, match=r"^no parameter matches '.*': names are like \w"):
            ParameterSubset(pattern).attach(model)


def test_biases_are_those_of_bitfit() -> None:
    names = parse_subspace("bias").attach(oracles.logit_model(ENCODER)).parameters
    assert "readout.bias" in names
    assert "encoder.layer.0.attention.self.query.bias" in names
    assert all(name.endswith("bias") for name in names)
    every = named_parameters(oracles.logit_model(ENCODER))
    assert len(names) == sum(name.endswith("bias") for name in every)


FORMS: list[tuple[str, Subspace]] = [
    ("full", Full()),
    ("bias", ParameterSubset(r"(^|[._])bias$")),
    (r"params:layer\.0,1", ParameterSubset(r"layer\.0,1")),
    ("lora", Lora()),
    ("lora:r=4", Lora(4)),
    (
        "lora:r=2,alpha=16,seed=3,targets=q_proj+v_proj,rslora=true",
        Lora(2, 16.0, ("q_proj", "v_proj"), 3, True),
    ),
    ("lora:targets=all-linear,r=1", Lora(1)),
    (r"lora:targets=.*\.(q|v)_proj,seed=1", Lora(targets=r".*\.(q|v)_proj", seed=1)),
    (r"lora:targets=.*h\.[0,1]\..*,r=2", Lora(2, targets=r".*h\.[0,1]\..*")),
]


@pytest.mark.parametrize(("text", "subspace"), FORMS, ids=[text for text, _ in FORMS])
def test_one_line_forms(text: str, subspace: Subspace) -> None:
    assert parse_subspace(text) == subspace
    assert json.loads(json.dumps(subspace.describe())) == subspace.describe()


def test_descriptions_tell_settings_apart() -> None:
    configs = [
        peft.LoraConfig(r=2, target_modules=["q_proj"]),
        peft.LoraConfig(r=3, target_modules=["q_proj"]),
        peft.LoraConfig(r=2, target_modules=["v_proj"]),
        peft.LoraConfig(r=2, target_modules=["q_proj"], use_dora=True),
        peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False),
        peft.IA3Config(target_modules=["q_proj"], feedforward_modules=[]),
    ]
    subspaces = [s for _, s in FORMS] + [Peft(c, seed) for c in configs for seed in (0, 1)]
    subspaces.remove(Lora(1))
    described = [json.dumps(s.describe(), sort_keys=True) for s in subspaces]
    assert len(set(described)) == len(described)


WRONG = {
    "ful": r"^unknown subspace 'ful': use full, bias, norm, .*params:REGEX, random:dim=1000",
    "": "unknown subspace ''",
    "full:1": "unknown subspace",
    "params:": "unknown subspace",
    "params:(": r"^'\(' is not a regular expression: ",
    "lora:rank=3": r"^unknown option 'rank=3' of LoRA: write key=value with r, alpha, seed",
    "lora:r": "unknown option 'r' of LoRA",
    "lora:r=two": r"^option r='two' of LoRA is not a whole number from 1$",
    "lora:rslora=yes": r"option rslora='yes' of LoRA .*true",
    "lora:r=0": r"^option r='0' of LoRA is not a whole number from 1$",
    "lora:r=-1": "option r='-1' of LoRA is not a whole number from 1",
}


@pytest.mark.parametrize("text", WRONG)
def test_what_is_no_subspace_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=WRONG[text]) as caught:
        parse_subspace(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "targets"),
    [
        ("all-linear", "all-linear"),
        ("q_proj", ("q_proj",)),
        ("q_proj+v_proj", ("q_proj", "v_proj")),
        ("h.0.mlp.c_fc,attn.c_proj", ("h.0.mlp.c_fc", "attn.c_proj")),
        (r".*\.(q|v)_proj", r".*\.(q|v)_proj"),
    ],
)
def test_targets(text: str, targets: str | tuple[str, ...]) -> None:
    assert parse_targets(text) == targets


def refuse(model: LogitModel, targets: str | tuple[str, ...], rank: int, message: str) -> None:
    batch = random_examples(2)
    for run in (
        lambda: compute_kernel(model, batch, subspace=Lora(rank, targets=targets)),
        lambda: sweep_lora(model, batch, grid=LoraGrid((1, rank), (0,), targets)),
    ):
        with pytest.raises(UserError, match=message) as caught:
            run()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("targets", [("attention",), "nothing.*", ("input_layernorm",)])
def test_targets_that_match_nothing_list_what_there_is(targets: str | tuple[str, ...]) -> None:
    refuse(oracles.logit_model(LLAMA), targets, 2, r"^no module matches .*: there are .*q_proj")


def test_a_rank_that_no_layer_allows_is_refused() -> None:
    message = r"^LoRA rank 9 exceeds the 8 x 16 layer 'model\.layers\.0\.self_attn\.k_proj'"
    refuse(oracles.logit_model(LLAMA), ("k_proj",), 9, message)


def test_a_target_that_is_no_linear_layer_is_refused() -> None:
    message = r"^'model\.embed_tokens' is not a linear layer"
    refuse(oracles.logit_model(LLAMA), ("embed_tokens",), 2, message)


def test_a_decoder_is_a_target_of_one_lora_but_of_no_sweep() -> None:
    model, batch = oracles.logit_model(LLAMA, tied=False), random_examples(4)
    lora = Lora(2, targets=("lm_head", "q_proj"))
    kernel = compute_kernel(model, batch, subspace=lora)
    reference = compute_kernel(model, batch, subspace=lora, engine="reference")
    assert oracles.error(kernel.values, reference.values) <= 1e-10
    with pytest.raises(UserError, match=r"^'lm_head' .*decoder.*--subspace lora:"):
        sweep_lora(model, batch, grid=LoraGrid((2,), (0,), lora.targets))


@pytest.mark.parametrize(
    ("ranks", "seeds"), [((), (0,)), ((1,), ()), ((1, 1), (0,)), ((1,), (2, 2)), ((0, 1), (0,))]
)
def test_a_grid_must_make_sense(ranks: tuple[int, ...], seeds: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=r"rank|seed"):
        LoraGrid(ranks, seeds)
