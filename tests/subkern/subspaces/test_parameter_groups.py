"""Groups are what the model's structure says: expected names written out, family by family."""

from __future__ import annotations

import itertools
import re

import pytest

from subkern import UserError
from subkern.kernels.compute import compute_kernel
from subkern.models.logit_model import named_parameters
from subkern.subspaces.base import Full
from subkern.subspaces.parameter_groups import GROUPS, LastLayers, ParameterGroup
from tests.support import oracles
from tests.support.families import FAMILIES, Family, case_id, random_examples

BY_NAME = {(f.name, f.kind): f for f in FAMILIES}


def expand(pattern: str) -> set[str]:
    """Return what braces stand for: ``a.{b,c}`` is a.b and a.c; ``w`` ends are weight and bias."""
    parts = re.split(r"\{([^}]*)\}", pattern)
    choices = [p.split(",") if i % 2 else [p] for i, p in enumerate(parts)]
    return {"".join(c) for c in itertools.product(*choices)}


def names(*patterns: str) -> set[str]:
    return set().union(*(expand(p) for p in patterns))


WB = "{weight,bias}"
BERT_BLOCK = "encoder.layer.{0,1}."

# family, tied → group → its parameters
EXPECTED: dict[tuple[str, str], dict[str, set[str]]] = {
    ("bert", "masked"): {
        "embeddings": names(
            "bert.embeddings.{word_embeddings,position_embeddings,token_type_embeddings}.weight"
        ),
        "head": names(
            "bert.embeddings.word_embeddings.weight",
            "cls.predictions.bias",
            "cls.predictions.transform.{dense,LayerNorm}." + WB,
        ),
        "norm": names(
            "{bert.embeddings,cls.predictions.transform}.LayerNorm." + WB,
            "bert." + BERT_BLOCK + "{attention.output,output}.LayerNorm." + WB,
        ),
        "attention": names(
            "bert." + BERT_BLOCK + "attention.{self.query,self.key,self.value,output.dense}." + WB
        ),
        "mlp": names("bert." + BERT_BLOCK + "{intermediate,output}.dense." + WB),
    },
    ("roberta", "masked"): {
        "embeddings": names(
            "roberta.embeddings.{word_embeddings,position_embeddings,token_type_embeddings}.weight"
        ),
        "head": names(
            "roberta.embeddings.word_embeddings.weight",
            "lm_head.bias",
            "lm_head.{dense,layer_norm}." + WB,
        ),
        "norm": names(
            "{roberta.embeddings.LayerNorm,lm_head.layer_norm}." + WB,
            "roberta." + BERT_BLOCK + "{attention.output,output}.LayerNorm." + WB,
        ),
    },
    ("distilbert", "masked"): {
        "head": names(
            "distilbert.embeddings.word_embeddings.weight",
            "vocab_projector.bias",
            "{vocab_transform,vocab_layer_norm}." + WB,
        ),
        "attention": names(
            "distilbert.transformer.layer.{0,1}.attention.{q_lin,k_lin,v_lin,out_lin}." + WB
        ),
        "mlp": names("distilbert.transformer.layer.{0,1}.ffn.{lin1,lin2}." + WB),
    },
    ("electra", "masked"): {
        "embeddings": names(
            "electra.embeddings.{word_embeddings,position_embeddings,token_type_embeddings}.weight"
        ),
        "head": names(
            "electra.embeddings.word_embeddings.weight",
            "generator_lm_head.bias",
            "generator_predictions.{LayerNorm,dense}." + WB,
        ),
        "mlp": names("electra." + BERT_BLOCK + "{intermediate,output}.dense." + WB),
    },
    ("albert", "masked"): {
        "head": names(
            "albert.embeddings.word_embeddings.weight",
            "predictions.bias",
            "predictions.{LayerNorm,dense}." + WB,
        ),
        "attention": names(
            "albert.encoder.albert_layer_groups.0.albert_layers.0.attention."
            "{query,key,value,dense}." + WB
        ),
        "mlp": names("albert.encoder.albert_layer_groups.0.albert_layers.0.{ffn,ffn_output}." + WB),
    },
    ("deberta-v3", "masked"): {
        "embeddings": names(
            "deberta.embeddings.word_embeddings.weight", "deberta.encoder.rel_embeddings.weight"
        ),
        "attention": names(
            "deberta." + BERT_BLOCK + "attention.self.{query_proj,key_proj,value_proj}." + WB,
            "deberta." + BERT_BLOCK + "attention.output.dense." + WB,
        ),
        "mlp": names("deberta." + BERT_BLOCK + "{intermediate,output}.dense." + WB),
    },
    ("modernbert", "masked"): {
        "head": names(
            "model.embeddings.tok_embeddings.weight",
            "head.{dense,norm}.weight",
            "decoder.bias",
        ),
        "norm": names(
            "model.{embeddings.norm,layers.0.mlp_norm,layers.1.mlp_norm,layers.1.attn_norm}.weight",
            "{model.final_norm,head.norm}.weight",
        ),
        "attention": names("model.layers.{0,1}.attn.{Wqkv,Wo}.weight"),
        "mlp": names("model.layers.{0,1}.mlp.{Wi,Wo}.weight"),
    },
    ("gpt2", "causal"): {
        "embeddings": names("transformer.{wte,wpe}.weight"),
        "head": {"transformer.wte.weight"},
        "norm": names("transformer.{h.0.ln_1,h.0.ln_2,h.1.ln_1,h.1.ln_2,ln_f}." + WB),
        "attention": names("transformer.h.{0,1}.attn.{c_attn,c_proj}." + WB),
        "mlp": names("transformer.h.{0,1}.mlp.{c_fc,c_proj}." + WB),
    },
    ("opt", "causal"): {
        "embeddings": names("model.decoder.{embed_tokens,embed_positions}.weight"),
        "head": {"model.decoder.embed_tokens.weight"},
        "attention": names(
            "model.decoder.layers.{0,1}.self_attn.{q_proj,k_proj,v_proj,out_proj}." + WB
        ),
        "mlp": names("model.decoder.layers.{0,1}.{fc1,fc2}." + WB),
    },
    ("llama", "causal"): {
        "embeddings": {"model.embed_tokens.weight"},
        "head": {"model.embed_tokens.weight"},
        "norm": names(
            "model.layers.{0,1}.{input_layernorm,post_attention_layernorm}.weight",
            "model.norm.weight",
        ),
        "attention": names("model.layers.{0,1}.self_attn.{q_proj,k_proj,v_proj,o_proj}.weight"),
        "mlp": names("model.layers.{0,1}.mlp.{gate_proj,up_proj,down_proj}.weight"),
    },
    ("qwen3", "causal"): {  # norms of queries and keys are norms
        "norm": names(
            "model.layers.{0,1}.{input_layernorm,post_attention_layernorm}.weight",
            "model.layers.{0,1}.self_attn.{q_norm,k_norm}.weight",
            "model.norm.weight",
        ),
        "attention": names("model.layers.{0,1}.self_attn.{q_proj,k_proj,v_proj,o_proj}.weight"),
    },
    ("gemma2", "causal"): {
        "embeddings": {"model.embed_tokens.weight"},
        "norm": names(
            "model.layers.{0,1}.{input,post_attention,pre_feedforward,post_feedforward}_layernorm"
            ".weight",
            "model.norm.weight",
        ),
        "mlp": names("model.layers.{0,1}.mlp.{gate_proj,up_proj,down_proj}.weight"),
    },
    ("bert", "encoder"): {
        "embeddings": names(
            "embeddings.{word_embeddings,position_embeddings,token_type_embeddings}.weight"
        ),
        "head": names("readout." + WB),
        "mlp": names(BERT_BLOCK + "{intermediate,output}.dense." + WB),
    },
}
# Without tying, the decoder's weight is the head's alone.
UNTIED = {
    ("bert", "masked"): (
        "bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight",
    ),
    ("gpt2", "causal"): ("transformer.wte.weight", "lm_head.weight"),
    ("llama", "causal"): ("model.embed_tokens.weight", "lm_head.weight"),
    ("electra", "masked"): (
        "electra.embeddings.word_embeddings.weight", "generator_lm_head.weight",
    ),
}  # fmt: skip
CASES = [(BY_NAME[key], group) for key, groups in EXPECTED.items() for group in groups]


def chosen(family: Family, group: str, *, tied: bool = True) -> set[str]:
    return set(ParameterGroup(group).attach(oracles.logit_model(family, tied=tied)).parameters)


@pytest.mark.parametrize(
    ("family", "group"), CASES, ids=lambda v: case_id(v) if isinstance(v, Family) else v
)
def test_a_group_is_what_it_is_called(family: Family, group: str) -> None:
    assert chosen(family, group) == EXPECTED[family.name, family.kind][group]


@pytest.mark.parametrize("key", EXPECTED, ids="-".join)
@pytest.mark.parametrize("group", ["embeddings", "head"])
def test_what_is_excluded_is_excluded_wholly(key: tuple[str, str], group: str) -> None:
    family = BY_NAME[key]
    every = set(named_parameters(oracles.logit_model(family)))
    assert chosen(family, f"no-{group}") == every - chosen(family, group)


@pytest.mark.parametrize("key", UNTIED, ids="-".join)
def test_a_tied_decoder_is_in_both_and_an_untied_one_in_the_head_alone(
    key: tuple[str, str],
) -> None:
    family, (table, decoder) = BY_NAME[key], UNTIED[key]
    for group in ("embeddings", "head"):
        assert table in chosen(family, group)
        assert table not in chosen(family, f"no-{group}")
    assert decoder in chosen(family, "head", tied=False)
    assert decoder not in chosen(family, "embeddings", tied=False)
    assert table in chosen(family, "no-head", tied=False)
    assert decoder in chosen(family, "no-embeddings", tied=False)


@pytest.mark.parametrize("family", FAMILIES, ids=case_id)
def test_kinds_do_not_overlap(family: Family) -> None:
    model = oracles.logit_model(family)
    seen: set[str] = set()
    for group in ("norm", "attention", "mlp", "embeddings"):
        try:
            found = set(ParameterGroup(group).attach(model).parameters)
        except UserError:
            assert family.name == "mamba"  # it has no attention, so nothing is told from it
            continue
        assert not found & seen
        seen |= found


@pytest.mark.parametrize("key", [k for k in EXPECTED if k[0] != "albert"], ids="-".join)
@pytest.mark.parametrize("count", [1, 2])
def test_last_layers_are_the_last(key: tuple[str, str], count: int) -> None:
    model = oracles.logit_model(BY_NAME[key])
    wanted = "|".join(str(2 - i) for i in range(1, count + 1))
    pattern = re.compile(rf"(^|\.)(layers?|h)\.({wanted})\.")
    every = named_parameters(model)
    expected = {n for n in every if pattern.search(n)}
    assert set(LastLayers(count).attach(model).parameters) == expected
    assert len(expected) >= 5 * count


def test_layers_that_share_their_weights_have_no_last() -> None:
    with pytest.raises(UserError, match=r"^the 3 layers of AlbertForMaskedLM share .* of 1: .*mlp"):
        LastLayers(1).attach(oracles.logit_model(BY_NAME["albert", "masked"]))


@pytest.mark.parametrize(
    ("count", "message"),
    [(0, r"^last 0 layers is not"), (3, r"has 2 layers, not 3: use last:1 to")],
)
def test_a_number_of_layers_must_make_sense(count: int, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        LastLayers(count).attach(oracles.logit_model(BY_NAME["llama", "causal"]))
    assert "\n" not in str(caught.value)


def test_an_empty_group_names_those_that_are_not() -> None:
    message = (
        r"^no parameter of MambaForCausalLM is in group 'attention': use norm, embeddings, head"
    )
    with pytest.raises(UserError, match=message):
        chosen(BY_NAME["mamba", "causal"], "attention")


def test_an_unknown_group_names_the_known() -> None:
    with pytest.raises(UserError, match=r"^unknown group 'mpl': use norm, attention, mlp"):
        ParameterGroup("mpl")


@pytest.mark.parametrize(
    "key", [("bert", "encoder"), ("gpt2", "causal"), ("roberta", "masked")], ids="-".join
)
def test_kernels_of_a_group_and_the_rest_add_up(key: tuple[str, str]) -> None:
    family = BY_NAME[key]
    model, batch = oracles.logit_model(family), random_examples(3, read=family.read)
    whole = compute_kernel(model, batch, subspace=Full()).values
    for group in ("embeddings", "head"):
        parts = [
            compute_kernel(model, batch, subspace=ParameterGroup(g)).values
            for g in (group, f"no-{group}")
        ]
        assert oracles.error(sum(parts), whole) <= 1e-12


def test_descriptions_tell_groups_apart() -> None:
    described = [str(ParameterGroup(g).describe()) for g in GROUPS]
    described += [str(LastLayers(n).describe()) for n in (1, 2)]
    assert len(set(described)) == len(described)
