"""Parameters counted from a config: exact beside the built model, and beside published totals."""

from __future__ import annotations

import pytest
import torch
import transformers

from mhmoe.analysis.parameters import TYPES, ConfigError, count, presets

SMALL = dict(
    vocab_size=50,
    hidden_size=32,
    intermediate_size=44,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
)
MOE = dict(num_experts_per_tok=2, moe_intermediate_size=20)
LATENT = dict(
    n_routed_experts=8,
    n_shared_experts=2,
    kv_lora_rank=12,
    q_lora_rank=10,
    qk_nope_head_dim=8,
    qk_rope_head_dim=4,
    v_head_dim=6,
    num_key_value_heads=4,
    first_k_dense_replace=1,
    n_group=2,
    topk_group=1,
    **MOE,
)
CASES = [
    ("llama", {}),
    ("llama", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
    ("mistral", {"head_dim": 16}),
    ("qwen2", {"tie_word_embeddings": True}),
    ("qwen3", {}),
    ("qwen3", {"attention_bias": True}),
    ("mixtral", {"num_local_experts": 6, **MOE}),
    ("olmoe", {"num_experts": 6, **MOE}),
    ("qwen2_moe", {"num_experts": 6, "shared_expert_intermediate_size": 28, **MOE}),
    (
        "qwen2_moe",
        {
            "num_experts": 6,
            "shared_expert_intermediate_size": 28,
            "decoder_sparse_step": 2,
            "mlp_only_layers": [3],
            **MOE,
        },
    ),
    ("qwen3_moe", {"num_experts": 6, "mlp_only_layers": [0, 2], **MOE}),
    ("granitemoe", {"num_local_experts": 6, "attention_bias": True, **MOE}),
    ("phimoe", {"num_local_experts": 6, **MOE}),
    ("phimoe", {"num_local_experts": 6, "attention_bias": True, "lm_head_bias": True, **MOE}),
    ("gpt_oss", {"num_local_experts": 6, **MOE}),
    ("deepseek_v2", LATENT),
    ("deepseek_v2", LATENT | {"q_lora_rank": None, "attention_bias": True}),
    ("deepseek_v3", LATENT),
    ("deepseek_v3", LATENT | {"first_k_dense_replace": 0, "tie_word_embeddings": True}),
    ("glm4_moe", LATENT | {"num_key_value_heads": 2, "attention_bias": True}),
    ("glm4_moe", LATENT | {"num_key_value_heads": 2, "use_qk_norm": True}),
]


def built(kind: str, changes: dict):
    """The model of transformers, without memory for its weights."""
    config = transformers.AutoConfig.for_model(kind, **(SMALL | changes))
    with torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize(("kind", "changes"), CASES)
def test_every_type_is_counted_to_the_last_parameter(kind, changes):
    model = built(kind, changes)
    counted = count(SMALL | changes | {"model_type": kind})
    assert counted.total == sum(p.numel() for p in model.parameters())
    size = {part.name: part.total for part in counted.parts}
    for name, where in (("experts", "experts."), ("embedding", "embed_tokens"), ("norms", "norm")):
        own = [
            p.numel()
            for n, p in model.named_parameters()
            if where in n and "shared" not in n and "attn" not in n
        ]
        assert size.get(name, 0) == sum(own), name


def test_every_type_is_among_the_cases():
    assert {kind for kind, _ in CASES} == set(TYPES)


@pytest.mark.parametrize(
    ("name", "total", "active"),
    [
        ("Mixtral 8x7B", 46_702_792_704, 12_879_925_248),
        ("Mixtral 8x22B", 140_620_634_112, None),
        ("Mistral 7B", 7_241_732_096, 7_241_732_096),
        ("OLMoE 1B-7B", 6_919_161_856, None),
        ("Qwen1.5-MoE-A2.7B", 14_315_784_192, None),
        ("Qwen3-30B-A3B", 30_532_122_624, None),
        ("DeepSeek-V2-Lite", 15_706_484_224, None),
        ("DeepSeek-V3", 671_026_419_200 - 58 * 256, None),  # without its routers' biases, buffers
        ("gpt-oss-20b", 20_914_757_184, None),
    ],
)
def test_published_totals(name, total, active):
    found = count(presets()[name])
    assert found.total == total
    assert active in (None, found.active)


def test_mixtral_part_by_part():
    """VG-55: the guide's numbers, with routers and norms that its sum leaves out."""
    counted = count(presets()["Mixtral 8x7B"])
    size = {part.name: (part.total, part.active) for part in counted.parts}
    assert size == {
        "embedding": (131_072_000, 131_072_000),
        "attention": (1_342_177_280, 1_342_177_280),
        "router": (1_048_576, 1_048_576),
        "experts": (45_097_156_608, 11_274_289_152),
        "norms": (266_240, 266_240),
        "head": (131_072_000, 131_072_000),
    }
    assert counted.units == (256, 64)
    assert counted.memory(16) == 93_405_585_408
    assert counted.memory(4) == counted.memory(16) / 4
    # what the guide left out: 31 routers and all norms
    assert 46_702_792_704 - 46_701_510_656 == 31 * 32_768 + 266_240


@pytest.mark.parametrize("k", range(1, 9))
def test_more_choices_use_more_of_the_same_weights(k):
    counted = count(presets()["Mixtral 8x7B"] | {"num_experts_per_tok": k})
    assert counted.total == 46_702_792_704
    assert counted.active == 46_702_792_704 - (8 - k) * 32 * 176_160_768
    assert count(presets()["Mixtral 8x7B"] | {"num_experts_per_tok": 1}).active == (
        count(presets()["Mistral 7B"]).active + 1_048_576
    )


def test_multiplications_of_a_token():
    """By hand: 2 layers, D 4, 2 heads of 2, 3 experts of width 5, 1 chosen, 7 words."""
    counted = count(
        dict(
            model_type="mixtral",
            vocab_size=7,
            hidden_size=4,
            intermediate_size=5,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            num_local_experts=3,
            num_experts_per_tok=1,
        )
    )
    attention, router, expert, head = 4 * (4 + 2 + 2 + 4), 3 * 4, 3 * 4 * 5, 7 * 4
    assert counted.macs(0) == 2 * (attention + router + expert) + head
    assert counted.macs(10) - counted.macs(0) == 10 * 2 * (4 + 4)


def test_a_config_inside_a_config():
    inner = presets()["Mistral 7B"]
    assert count({"model_type": "llava", "text_config": inner}) == count(inner)


@pytest.mark.parametrize(
    ("changes", "code", "sentence"),
    [
        ({"model_type": "gpt2"}, "type", "The model type 'gpt2' is not known; known are llama"),
        ({"model_type": None}, "type", "The model type 'None' is not known"),
        ({"hidden_size": None}, "missing", "The config has no hidden_size"),
        ({"hidden_size": "big"}, "number", "hidden_size is 'big'; it must be a whole number"),
        ({"hidden_size": 0}, "number", "hidden_size is 0; it must be a whole number of at least 1"),
        ({"hidden_size": True}, "number", "hidden_size is True"),
        ({"vocab_size": 10**15}, "number", "vocab_size is 1000000000000000"),
        ({"num_hidden_layers": 10**6}, "number", "num_hidden_layers is 1000000"),
        ({"num_key_value_heads": 5}, "groups", "32 attention heads cannot share 5"),
        ({"num_experts_per_tok": 9}, "chosen", "9 experts cannot be chosen from 8"),
    ],
)
def test_a_config_that_makes_no_sense(changes, code, sentence):
    with pytest.raises(ConfigError, match=sentence) as caught:
        count(presets()["Mixtral 8x7B"] | changes)
    assert caught.value.code == code


def test_layers_that_are_no_list():
    with pytest.raises(ConfigError, match="mlp_only_layers is 3; it must be a list of layers"):
        count(presets()["Qwen3-30B-A3B"] | {"mlp_only_layers": 3})


@pytest.mark.parametrize("values", [None, [], "text", 3])
def test_what_is_no_config(values):
    with pytest.raises(ConfigError, match="one object in braces"):
        count(values)
