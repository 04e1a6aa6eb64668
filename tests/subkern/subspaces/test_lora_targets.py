"""Named target sets resolve by structure, and one sweep of many equals each of them alone."""

from __future__ import annotations

import re

import numpy as np
import pytest
import transformers
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING

from subkern import UserError
from subkern.kernels.compute import compute_kernel
from subkern.kernels.request import RunOptions
from subkern.kernels.sweeps.lora import LoraGrid, sweep_lora, sweep_targets
from subkern.kernels.sweeps.lora_blocks import sweep_layers
from subkern.kernels.sweeps.lora_parts import partition
from subkern.models.anatomy import linear_modules
from subkern.models.logit_model import LogitModel, WordReadout, named_parameters
from subkern.subspaces.lora import Lora
from subkern.subspaces.lora_targets import NAMED, resolve
from subkern.subspaces.text import parse_subspace, parse_targets
from tests.subkern.kernels import test_peft_oracle as alone
from tests.support import oracles
from tests.support.families import FAMILIES, Family, case_id, random_examples

BY_NAME = {(f.name, f.kind): f for f in FAMILIES}
BERT, GPT2, LLAMA = BY_NAME["bert", "masked"], BY_NAME["gpt2", "causal"], BY_NAME["llama", "causal"]
ALBERT, HEAD = BY_NAME["albert", "masked"], BY_NAME["bert", "encoder"]
MAMBA = BY_NAME["mamba", "causal"]

# Layers by hand: of every block (query and value; the rest of attention; the MLP), and elsewhere.
LAYERS: dict[str, tuple[str, str, str, str]] = {
    "bert": (r"self\.(query|value)", r"self\.key|attention\.output\.dense",
             r"intermediate\.dense|layer\.\d\.output\.dense", r"transform\.dense|pooler\.dense"),
    "distilbert": (r"[qv]_lin", r"k_lin|out_lin", r"ffn\.lin\d", r"vocab_transform"),
    "albert": (r"attention\.(query|value)", r"attention\.(key|dense)", r"ffn|ffn_output",
               r"embedding_hidden_mapping_in|predictions\.dense|pooler"),
    "deberta-v2": (r"self\.(query|value)_proj",
                   r"(pos_)?key_proj|pos_query_proj|attention\.output\.dense",
                   r"intermediate\.dense|layer\.\d\.output\.dense", r"transform\.dense"),
    "modernbert": (r"Wqkv", r"attn\.Wo", r"mlp\.W[io]", r"head\.dense"),
    "gpt2": (r"c_attn", r"attn\.c_proj", r"mlp\.c_(fc|proj)", "none"),
    "gpt-neox": (r"query_key_value", r"attention\.dense", r"dense_h_to_4h|dense_4h_to_h", "none"),
    "bloom": (r"query_key_value", r"self_attention\.dense", r"dense_h_to_4h|dense_4h_to_h", "none"),
    "opt": (r"[qv]_proj", r"k_proj|out_proj", r"fc[12]", r"project_(in|out)"),
    "llama": (r"[qv]_proj", r"[ko]_proj", r"(gate|up|down)_proj", "none"),
    "gemma3": (r"[qv]_proj", r"[ko]_proj", r"(gate|up|down)_proj", "none"),
    "phi": (r"[qv]_proj", r"k_proj|self_attn\.dense", r"fc[12]", "none"),
}  # fmt: skip
FUSED = {"gpt2", "gpt-neox", "bloom", "modernbert"}
each_family = pytest.mark.parametrize(
    "family", [f for f in FAMILIES if f.name in LAYERS], ids=case_id
)


def by_hand(family: Family, name: str) -> re.Pattern[str]:
    """Return what matches the end of the names of the layers of a target set."""
    qv, rest, mlp, elsewhere = LAYERS[family.name]
    kinds = {
        "qv": [qv], "attention": [qv, rest], "mlp": [mlp],
        "all-linear": [qv, rest, mlp, elsewhere], "all": [qv, rest, mlp, elsewhere],
    }[name]  # fmt: skip
    return re.compile(rf"(.*\.)?({'|'.join(kinds)})\.weight")


@each_family
def test_named_sets_are_the_layers_listed_by_hand(family: Family) -> None:
    model = oracles.logit_model(family)
    for name in NAMED:
        layers = sweep_layers(model, name, 1, (0,))
        wanted = {n for n in named_parameters(model) if by_hand(family, name).fullmatch(n)}
        assert set(layers.rows) == wanted, name
        assert wanted
    note = resolve(model, "qv").note
    assert ("one layer" in note) is (family.name in FUSED)


@each_family
def test_query_and_value_are_what_peft_takes(family: Family) -> None:
    """Where PEFT has targets of LoRA for a family, they are ours: some tables have more."""
    model = oracles.logit_model(family)
    table = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
    wanted = set(table.get(model.module.config.model_type, ())) - {"fc1", "fc2"}
    if wanted:
        found = {name.rpartition(".")[2] for name in resolve(model, "qv").targets}
        assert found == wanted


@pytest.mark.parametrize("family", ["mamba", "falcon_h1"])
def test_lora_leaves_out_what_peft_adapts_in_no_mamba(family: str) -> None:
    """Its code may pass `out_proj` by; everything else is adapted, alone and in a sweep."""
    if family == "mamba":
        model = oracles.logit_model(MAMBA)
    else:
        config = transformers.FalconH1Config(
            hidden_size=16, num_hidden_layers=1, vocab_size=80, num_attention_heads=2,
            num_key_value_heads=1, head_dim=8, intermediate_size=16, mamba_d_ssm=16,
            mamba_n_heads=4, mamba_d_head=4, mamba_d_state=4,
        )  # fmt: skip
        module = transformers.FalconH1ForCausalLM(config).double().eval()
        model = LogitModel(module, WordReadout((3, 4))).eval()
    examples = random_examples(2, read=MAMBA.read, seed=0)
    found = compute_kernel(model, examples, subspace="lora:r=1,alpha=1")
    slow = compute_kernel(model, examples, subspace="lora:r=1,alpha=1", engine="reference")
    assert oracles.error(found.values, slow.values) <= 1e-9
    layers = {n.removesuffix(".weight") for n in sweep_layers(model, "all-linear", 1, (0,)).rows}
    assert layers == {n for n in linear_modules(model.module) if not n.endswith("out_proj")}
    assert "adapts no out_proj" in resolve(model, "all").note
    with pytest.raises(
        UserError, match=r"adapts no out_proj of .*leave it out; there are .*in_pro"
    ):
        Lora(1, 1, ("out_proj",), 0).attach(model)
    compute_kernel(model, examples, subspace="ia3")  # PEFT has no table of this family


def test_what_is_trained_beside_lora() -> None:
    model = oracles.logit_model(HEAD)
    head = {"readout.weight", "readout.bias"}
    assert set(sweep_layers(model, "qv", 1, (0,)).always) == head
    layers, names = sweep_layers(model, "all", 1, (0,)), set(named_parameters(model))
    assert head <= set(layers.always)
    assert set(layers.always) | set(layers.rows) == names
    assert not set(layers.always) & set(layers.rows)


@pytest.mark.parametrize("family", [BERT, GPT2, LLAMA, ALBERT, HEAD], ids=case_id)
def test_one_sweep_of_all_sets_equals_each_subspace(family: Family) -> None:
    model, (left, right) = oracles.logit_model(family), alone.pair(family)
    grid = LoraGrid((4, 1), (7,), alpha=alone.ALPHA)
    sets = {name: parse_targets(name) for name in NAMED}
    assert list(sets.values()) == list(NAMED)
    swept = sweep_targets(model, left, right, sets=sets, grid=grid)
    assert list(swept) == list(NAMED)
    for name, sweep in swept.items():
        for (seed, rank), kernel in sweep.kernels.items():
            lora = Lora(rank, alone.ALPHA, name, seed)
            expected = compute_kernel(model, left, right, subspace=lora)
            assert oracles.error(kernel.values, expected.values) <= 1e-10, (name, seed, rank)
            assert kernel.provenance["subspace"] == expected.provenance["subspace"]
        size = expected.provenance["recorded"]["coordinates"]
        assert sweep.trainable[rank] == size
        assert size == lora.attach(model).size


@pytest.mark.parametrize("family", [BERT, GPT2, LLAMA, HEAD], ids=case_id)
def test_one_sweep_of_all_sets_equals_models_that_peft_wrapped(family: Family) -> None:
    """By autograd, with PEFT's target modules written out by hand; `all` has a test of its own."""
    model, (left, right) = oracles.logit_model(family), alone.pair(family)
    named = [name for name in NAMED if name != "all"]
    grid = LoraGrid((2,), (7,), alpha=alone.ALPHA)
    swept = sweep_targets(model, left, right, sets={n: n for n in named}, grid=grid)
    for name in named:
        weights = (n for n in named_parameters(model) if by_hand(family, name).fullmatch(n))
        layers = tuple(n.removesuffix(".weight") for n in weights)
        expected = alone.lora_oracle(family, Lora(2, alone.ALPHA, layers, 7), left, right)
        assert oracles.error(swept[name].kernels[7, 2].values, expected) <= 1e-10, name


def test_all_is_lora_plus_the_full_kernel_of_the_rest() -> None:
    for family in (GPT2, ALBERT, HEAD):
        model, (left, right) = oracles.logit_model(family), alone.pair(family)
        lora = Lora(2, alone.ALPHA, "all-linear", 7)
        adapted = by_hand(family, "all-linear")
        model_again = oracles.logit_model(family)
        named = named_parameters(model_again)
        rest = [p for n, p in named.items() if not adapted.fullmatch(n) and "readout" not in n]
        sides = [oracles.jacobian(model_again, side, rest) for side in (left, right)]
        expected = alone.lora_oracle(family, lora, left, right) + oracles.kernel(*sides)
        grid = LoraGrid((2,), (7,), "all", alone.ALPHA)
        sweep = sweep_lora(model, left, right, grid=grid)
        assert oracles.error(sweep.kernels[7, 2].values, expected) <= 1e-10
        np.testing.assert_array_equal(sweep.targets_full.values, sweep.full.values)
        by_reference = compute_kernel(
            model, left, right, subspace=grid.lora(7, 2), engine="reference"
        )
        assert oracles.error(by_reference.values, expected) <= 1e-10


def test_a_sweep_of_sets_equals_the_sweeps_alone() -> None:
    """User names and regular expressions too, whose layers overlap; and the full kernels."""
    model, (left, right) = oracles.logit_model(LLAMA), alone.pair(LLAMA)
    sets = {"two": ("q_proj", "up_proj"), "regex": r".*layers\.1\..*_proj", "mlp": "mlp"}
    swept = sweep_targets(model, left, right, sets=sets, grid=LoraGrid((1, 2), (0,)))
    for name, targets in sets.items():
        one = sweep_lora(model, left, right, grid=LoraGrid((1, 2), (0,), targets))
        assert swept[name].trainable == one.trainable
        pairs = [(one.full, swept[name].full), (one.targets_full, swept[name].targets_full)]
        pairs += [(kernel, swept[name].kernels[cell]) for cell, kernel in one.kernels.items()]
        for mine, theirs in pairs:
            assert oracles.error(theirs.values, mine.values) <= 1e-12
            assert mine.provenance["subspace"] == theirs.provenance["subspace"]


def test_tiles_change_nothing() -> None:
    model, (left, right) = oracles.logit_model(BERT), alone.pair(BERT)
    sets = {"qv": "qv", "all": "all"}
    one, other = (
        sweep_targets(model, left, right, sets=sets, grid=LoraGrid((2,), (0,)), options=options)
        for options in (RunOptions(), RunOptions(batch_size=1, memory="150KiB"))
    )
    for name in sets:
        error = oracles.error(other[name].kernels[0, 2].values, one[name].kernels[0, 2].values)
        assert error <= 1e-10


def test_parts_are_disjoint_and_whole() -> None:
    model = oracles.logit_model(LLAMA)
    sets = [sweep_layers(model, name, 1, (0,)) for name in NAMED]
    parts = partition(list(named_parameters(model)), sets)
    assert sorted(n for part in parts for n in part.names) == sorted(named_parameters(model))
    # query and value, the rest of attention, MLP, and what only `all` trains
    assert [(p.adapted, p.trained) for p in parts] == [
        ((), (4,)), ((0, 1, 3, 4), ()), ((1, 3, 4), ()), ((2, 3, 4), ()),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("family", "sets", "rank", "message"),
    [
        (MAMBA, {"a": ("x_proj",), "b": "qv"}, 1, r"^target set 'b': targets 'qv'"),
        (MAMBA, {"a": "mlp"}, 1, r"^targets 'mlp': the model has no"),
        (LLAMA, {"m": "mlp", "a": "attention"}, 9,
         r"^target set 'a': LoRA rank 9 exceeds the 8 x 16 layer"),
        (LLAMA, {"m": "mlp", "a": ("nope",)}, 1, r"^target set 'a': no module matches"),
        (LLAMA, {}, 1, r"no target sets"),
    ],
)  # fmt: skip
def test_what_no_sweep_covers_is_one_line(
    family: Family, sets: dict[str, str | tuple[str, ...]], rank: int, message: str
) -> None:
    model = oracles.logit_model(family)
    with pytest.raises(UserError, match=message) as caught:
        sweep_targets(model, random_examples(2), sets=sets, grid=LoraGrid((rank,), (0,)))
    assert "\n" not in str(caught.value)


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(UserError, match="unknown rule 'sgdd'"):
        sweep_lora(oracles.logit_model(LLAMA), random_examples(2), rule="sgdd")


def test_named_sets_as_text_and_as_peft() -> None:
    assert parse_targets("mlp") == "mlp"
    assert parse_targets("mlp,qv") == ("mlp", "qv")  # names of layers: one set, as ever
    assert parse_subspace("lora:r=2,targets=qv") == Lora(2, targets="qv")
    with pytest.raises(UserError, match=r"depend on the model: use config_for"):
        _ = Lora(2, targets="qv").config
    config = Lora(2, targets="attention").config_for(oracles.logit_model(GPT2))
    assert config.target_modules is not None
    assert {n.rsplit(".", 1)[-1] for n in config.target_modules} == {"c_attn", "c_proj"}
