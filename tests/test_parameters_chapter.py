"""Chapter 7, figure by figure (VG-54 .. VG-56): the facts that its pictures show."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import SPARSE
from tiny import TEXT as TINY_TEXT

from mhmoe.analysis import budget, parity
from mhmoe.analysis.parameters import TYPES, ConfigError, count, presets
from mhmoe.figures import parameters_plates as plates
from mhmoe.layers import ConfigError as LayerError
from mhmoe.layers import WhatIf
from mhmoe.models import checkpoint, engine
from mhmoe.models.config import ModelConfig
from mhmoe.models.transformer import Transformer
from mhmoe.ui import language
from mhmoe.ui import parameters_panels as panels
from mhmoe.ui.runs import ModelKey

TEXT = "The dog sleeps. 今天"
KEYS = (ModelKey("text"), ModelKey("text", heads=1))
MOST_BYTES = 100_000


@pytest.fixture
def pair(models):
    """Tiny models under the names that the page asks for."""
    for key in KEYS:
        if key.name not in checkpoint.names():
            moe = SPARSE.matched(key.heads)
            checkpoint.save(Transformer(ModelConfig(**TINY_TEXT, moe=moe), 3), key.name, {})
    return KEYS


@pytest.fixture(params=KEYS, ids=lambda key: key.name)
def held(request, pair) -> plates.ModelHeld:
    return panels.held.__wrapped__(request.param, request.param.name, TEXT)


# ------------------------------------------------------------------------------- VG-54


def test_vg54_the_areas_are_all_weights_of_the_loaded_model(held):
    loaded = engine.load(held.name)
    assert held.parts.total == sum(p.numel() for p in loaded.model.parameters())
    assert held.parts.total == loaded.card["params_total"]
    blocks = [sum(p.numel() for p in b.parameters()) for b in loaded.model.blocks]
    assert [sum(table.values()) for table in held.parts.blocks] == blocks
    layer = loaded.model.moe_layers[0][1]
    square = 2 * layer.config.d_model**2 if layer.config.heads > 1 else 0
    assert held.parts.blocks[0].get("square", 0) == square
    assert held.parts.blocks[0]["router"] == layer.router.weight.numel()


def test_vg54_active_as_the_papers_count_is_that_of_the_card(held):
    card = engine.load(held.name).card
    assert held.active(held.layers * held.trained) == card["params_active"]
    assert held.active(held.layers * held.experts) == card["params_total"]


def test_vg54_a_token_uses_what_its_sub_tokens_chose(held):
    """One token counted by hand, in every layer, and k = 1..E each a run of the whole model."""
    loaded = engine.load(held.name)
    for k in (1, held.trained, held.experts):
        trace = engine.trace_text(loaded, TEXT, WhatIf(top_k=k))[0]
        for index, layer in enumerate(trace.layers):
            rows = layer.expert[2 * layer.heads : 3 * layer.heads]
            by_hand = [int((rows == e).any(1).sum()) for e in range(layer.experts)]
            assert held.visits[k - 1, index, 2].tolist() == by_hand
        if trace.bits_per_byte is not None:
            assert held.bits[k - 1] == pytest.approx(trace.bits_per_byte, rel=1e-5)
    assert held.macs[held.trained - 1] == loaded.card["macs_per_token"]
    assert (np.diff(held.macs) > 0).all()


def test_vg54_the_picture_holds_the_followed_token(held):
    data = plates.treemap([held, held], 1, 2, "dog")
    tree = data["models"][0]
    visited = (held.visits[:, :, 2] > 0).sum((1, 2))
    idle = tree["units"] - visited
    assert tree["active"] == (held.parts.total - idle * held.expert).tolist()
    assert tree["active"][-1] == tree["total"]
    assert tree["sub"][held.trained - 1] <= tree["active"][held.trained - 1]
    assert tree["chance"][-1] == tree["units"]
    # with one head a token is one sub-token, and chance is no chance
    if held.heads == 1:
        assert tree["sub"] == tree["active"]
        assert visited.tolist() == [held.layers * k for k in range(1, held.experts + 1)]


def test_vg54_a_name_that_belongs_nowhere_is_refused():
    assert budget.anatomy({"norm.weight": 3, "blocks.0.ffn.w_in": 4}).total == 7
    with pytest.raises(ValueError, match=r"'blocks\.0\.mystery' belongs to no part"):
        budget.anatomy({"blocks.0.mystery": 1})


def test_vg54_a_batch_by_hand():
    """2 layers, 3 experts, 3 tokens."""
    first = np.array([[0, 2, 3], [1, 0, 0]])
    assert budget.touched(first, 3).tolist() == [3, 4, 5]
    chance = budget.touched_chance(layers=2, experts=4, top_k=1, heads=2, tokens=2)
    np.testing.assert_allclose(chance, [8 * (1 - 0.75**2), 8 * (1 - 0.75**4)])


def test_vg54_a_batch_touches_the_union_of_its_tokens(held):
    loaded = engine.load(held.name)
    trace = engine.trace_text(loaded, TEXT)[0]
    T = trace.input.count
    touched = budget.touched(held.first, T)
    for n in (1, 3, T):
        union = sum(
            len(set(layer.expert[: n * layer.heads].ravel().tolist())) for layer in trace.layers
        )
        assert touched[n - 1] == union
    data = plates.batch([held, held], 1, [str(i) for i in range(T)], 3)
    assert data["models"][0]["touched"] == touched.tolist()


def test_vg54_a_long_text_stays_small(pair):
    long = panels.held.__wrapped__(KEYS[0], "MH-MoE", "the dog sleeps " * 60)
    tokens = [str(i) for i in range(long.visits.shape[2])]
    for data in (plates.treemap([long, long], 0, 1, "x"), plates.batch([long, long], 0, tokens, 9)):
        assert len(json.dumps(data)) < MOST_BYTES / 4


# ------------------------------------------------------------------------------- VG-55, 56


def calculator(name: str) -> dict:
    values = presets()[name]
    return plates.calculator(name, *budget.by_chosen(values), count(values))


def test_vg55_vg56_mixtral_to_the_last_parameter():
    data = calculator("Mixtral 8x7B")
    total = {part["name"]: part["total"] for part in data["parts"]}
    assert total == {
        "embedding": 131_072_000,
        "attention": 32 * 41_943_040,
        "router": 32 * 32_768,
        "experts": 256 * 176_160_768,
        "norms": 266_240,
        "head": 131_072_000,
    }
    assert sum(total.values()) == 46_702_792_704
    assert sum(data["active"][data["trained"]]) == 12_879_925_248
    assert data["ks"][data["trained"]] == 2
    assert data["units"] == [256, 64]


def test_vg56_every_k_of_mixtral():
    """moe-formulas F-14: from 7.24 to 46.70 billion."""
    active = [sum(row) / 1e9 for row in calculator("Mixtral 8x7B")["active"]]
    expected = [7.24, 12.88, 18.52, 24.15, 29.79, 35.43, 41.07, 46.70]
    np.testing.assert_allclose(active, expected, atol=0.006)


@pytest.mark.parametrize("name", list(presets()))
def test_vg55_every_preset_is_a_picture(name):
    data = calculator(name)
    own = count(presets()[name])
    assert sum(data["active"][data["trained"]]) == own.active
    assert data["macs"][data["trained"]] == own.macs(0)
    assert data["ks"] == sorted(data["ks"])
    assert sum(data["active"][-1]) == own.total
    assert len(json.dumps(data)) < MOST_BYTES / 4


def test_vg55_a_model_inside_a_model_can_be_dragged_too():
    inner = presets()["Mixtral 8x7B"]
    assert budget.by_chosen({"model_type": "llava", "text_config": inner}) == budget.by_chosen(
        inner
    )


def test_vg55_many_experts_have_few_stops():
    stops, counted = budget.by_chosen(presets()["DeepSeek-V3"])
    assert stops == (1, 2, 4, 8, 16, 32, 64, 128, 256)
    assert counted[3] == count(presets()["DeepSeek-V3"])
    own = presets()["DeepSeek-V3"] | {"num_experts_per_tok": 7}
    assert budget.by_chosen(own)[0][3] == 7


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '"a"', "[" * 30_000, "{'a': 1}", "\x00"])
def test_vg55_what_is_no_config(text):
    with pytest.raises(ConfigError) as caught:
        budget.read_config(text)
    assert caught.value.code == "json"


def test_vg55_a_text_that_is_too_long():
    with pytest.raises(ConfigError) as caught:
        budget.read_config(" " * (budget.CONFIG_LIMIT + 1))
    assert caught.value.code == "large"


BROKEN = {
    "json": "nothing",
    "large": " " * (budget.CONFIG_LIMIT + 1),
    "type": {"model_type": "gpt2"},
    "missing": {"hidden_size": None},
    "number": {"hidden_size": -3},
    "groups": {"num_key_value_heads": 5},
    "chosen": {"num_experts_per_tok": 9},
    "list": {"model_type": "qwen3_moe", "moe_intermediate_size": 8, "mlp_only_layers": 1},
}


@pytest.mark.parametrize("lang", ["en", "zh"])
@pytest.mark.parametrize("code", list(BROKEN))
def test_vg55_every_error_has_its_sentence(code, lang):
    broken = BROKEN[code]
    if isinstance(broken, dict):
        broken = json.dumps(presets()["Mixtral 8x7B"] | broken)
    with pytest.raises(ConfigError) as caught:
        count(budget.read_config(broken))
    assert caught.value.code == code
    said = language.lookup(lang, f"parameters.config_{code}", **caught.value.numbers)
    assert "{" not in said
    if code == "type":
        assert all(kind in said for kind in TYPES)


# ------------------------------------------------------------------------------- measured


def test_vg56_measured_layers_stand_beside_dense_ones_of_equal_size():
    found = budget.costs(panels.measured())
    assert {cost.which for cost in found} == {"forward", "both"}
    for cost in found:
        size = (cost.tokens, cost.experts, cost.top_k, cost.heads, cost.d_model, cost.d_ff)
        active, ours, total = panels._weights(size)
        assert abs(total - ours) <= cost.d_model
        assert active < ours
    assert any(cost.heads > 1 for cost in found)


def test_vg56_sparse_time_lies_near_the_active_size():
    """The claim of the chapter where it is fair to it: many tokens for few experts."""
    [cost] = [
        c
        for c in budget.costs(panels.measured())
        if (c.tokens, c.experts, c.top_k, c.which) == (16384, 8, 1, "forward")
    ]
    assert cost.ours < 1.2 * cost.active < cost.total / 4


def test_a_size_without_its_dense_layers_is_left_out():
    columns = panels.measured()["columns"]
    row = [16, 8, 2, 1, 32, 128, "forward", "ours", 1.0, 1.0]
    assert budget.costs({"columns": columns, "rows": [row]}) == []


# ------------------------------------------------------------------------------- parity

SIZES = [
    parity.Asked(128, 512, 8, 2),
    parity.Asked(96, 384, 8, 1, gated=True),
    parity.Asked(768, 3072, 32, 1),
    parity.Asked(8192, 32768, 512, 8, gated=True),
]


@pytest.mark.parametrize("asked", SIZES, ids=str)
def test_every_design_is_counted_on_a_really_built_layer(asked):
    for heads in asked.heads:
        for design, member in parity.members(asked, heads).items():
            assert member.built == member.parameters, (design, heads)


def test_small_layers_with_storage_have_as_many_weights():
    asked = parity.Asked(32, 64, 4, 2)
    for heads in asked.heads:
        for design, member in parity.members(asked, heads).items():
            layer = parity.build(asked, design, heads)
            if member is None:
                assert layer is None
                continue
            assert sum(w.numel() for w in layer.parameters()) == member.parameters
            assert not any(w.is_meta for w in layer.parameters())


def test_one_head_is_the_plain_layer():
    found = parity.members(SIZES[0], 1)
    assert found["text"] == found["code"] == found["follow"] == found["smoe"]


def test_the_follow_ups_worked_case():
    """mhmoe.md 3: d_moe = 4d, k = 1, h = 3 -> d_mh = 3d, and 4E - 1 experts; here h = 2 and 4, for
    which the same sum gives (8 h E / 2 - h) / 3 = (4 E - 1) h / 3 experts."""
    d, E = 96, 8
    asked = parity.Asked(d, 4 * d, E, 1)
    for h in (2, 4):
        member = parity.members(asked, h)["follow"]
        assert member.inner == 3 * d
        assert member.experts == round((4 * E - 1) * h / 3)


def test_the_first_papers_code_pays_for_every_head():
    """P2: 67 B d^2 beside 16 B d^2 at h = 4, that is about 4.2 times."""
    asked = parity.Asked(768, 3072, 8, 1)
    four = parity.members(asked, 4)
    square = 2 * 768**2
    experts = four["code"].macs - square - 8 * 768
    assert experts / (four["smoe"].macs - 8 * 768) == pytest.approx(4, rel=0.05)
    assert four["text"].macs - square < four["smoe"].macs
    assert four["text"].parameters < 0.3 * four["smoe"].parameters
    assert four["follow"].parameters == pytest.approx(four["smoe"].parameters, rel=0.02)
    assert four["follow"].macs == pytest.approx(four["smoe"].macs, rel=0.03)


def test_what_cannot_be_built_is_none():
    small = parity.members(parity.Asked(8, 8, 4, 2), 4)
    assert small["text"] is None
    assert small["follow"] is None
    assert parity.members(parity.Asked(8, 9, 4, 2), 2)["fine"] is None
    with pytest.raises(LayerError, match="top_k 5 is more than the 4 experts"):
        parity.members(parity.Asked(8, 8, 4, 5), 1)
    assert parity.Asked(12, 8, 4, 1).heads == (1, 2, 4)
    assert parity.Asked(7, 8, 4, 1).heads == (1,)


def test_only_small_layers_are_timed():
    assert parity.affordable(SIZES[0])
    assert not parity.affordable(SIZES[3])
    asked = parity.Asked(32, 64, 4, 2)
    times = parity.timed(asked)
    assert set(times) == {
        *((design, 1) for design in ("dense", "smoe", "fine")),
        *(
            (design, h)
            for design in parity.SIZINGS
            for h in asked.heads[1:]
            if _there(asked, h, design)
        ),
    }
    assert all(ms > 0 for ms in times.values())


def _there(asked: parity.Asked, heads: int, design: str) -> bool:
    return parity.members(asked, heads)[design] is not None


def test_the_parity_picture_holds_every_head():
    asked = SIZES[0]
    stops = [parity.members(asked, h) for h in asked.heads]
    times = {(d, 1): 1.0 for d in ("dense", "smoe", "fine")}
    times |= {(d, h): float(h) for d in parity.SIZINGS for h in asked.heads[1:]}
    data = plates.parity(asked.heads, stops, times, tuple(parity.SIZINGS), 2)
    assert [row["design"] for row in data["stops"][0]] == list(parity.DESIGNS)
    assert data["stops"][0][5]["ms"] == 1.0  # one head: the plain layer's time
    assert data["stops"][2][4]["ms"] == 4.0
    assert len(json.dumps(data)) < MOST_BYTES / 4
    broken = plates.parity((1,), [dict.fromkeys(parity.DESIGNS)], None, tuple(parity.SIZINGS), 0)
    assert all(row["problem"] for row in broken["stops"][0])


def test_building_for_a_count_leaves_the_random_state_alone():
    before = torch.get_rng_state()
    parity.members.cache_clear()
    parity.members(SIZES[0], 4)
    assert torch.equal(before, torch.get_rng_state())


# ------------------------------------------------------------------------------- the page


def test_a_presets_name_in_a_link():
    slugs = [panels.slug(name) for name in presets()]
    assert len(set(slugs)) == len(slugs)
    assert panels.slug("Mixtral 8x7B") == "mixtral-8x7b"


def test_what_the_calculator_says_of_one_expert():
    chosen = panels.Chosen("x", presets()["Mixtral 8x7B"], True)
    assert panels.expert_size(chosen)["each"] == "176,160,768"
    dense = replace(chosen, values=presets()["Mistral 7B"])
    assert panels.expert_size(dense)["units"] == "0"


@pytest.mark.parametrize("step", ["treemap", "batch", "budget", "costs", "parity"])
def test_the_code_of_every_step_is_shown(step):
    assert "def " in panels.code_of(step) or "class " in panels.code_of(step)
