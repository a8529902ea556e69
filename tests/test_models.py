"""The small transformers, their tokens, patches, checkpoints, and the engine around them."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import TINY, VOCABULARY
from torch.nn import functional as F

from mhmoe.layers import METHODS, MoEConfig, WhatIf
from mhmoe.models import checkpoint, device, engine, metrics, patches, tokenizer
from mhmoe.models.config import ModelConfig
from mhmoe.models.images import DecodedImage
from mhmoe.models.transformer import Transformer
from mhmoe.trace import RoutingTrace

LEARNED = tokenizer.train(["the cat sat on the mat"] * 3 + ["今天天气很好"] * 3, 300)


# ---------------------------------------------------------------------------- tokens and words


def check_map(text: str, limit: int) -> None:
    """Every law of the word map, for any text."""
    ids, source = tokenizer.encode(LEARNED, text, limit)
    raw = text.encode()
    assert len(ids) == source.count <= limit
    at = 0
    for token in source.tokens:  # spans follow one another without a gap
        assert token.span[0] == at < token.span[1]
        at = token.span[1]
    if source.count < limit:
        assert at == len(raw)
        assert source.text == text
    assert [w[0] for w in source.words] == [0, *(w[1] for w in source.words[:-1])][
        : len(source.words)
    ]
    for token in source.tokens:  # each token lies inside the word that it points to
        start, end = source.words[token.word]
        assert start <= token.span[0]
        assert token.span[1] <= end
    if source.text == text:
        for _, end in source.words:  # and no word ends inside a character
            raw[:end].decode("utf-8")


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=60))
def test_any_text_has_a_word_map_that_covers_it(text):
    check_map(text, 1000)
    assert LEARNED.decode(LEARNED.encode(text).ids) == text


@settings(max_examples=60, deadline=None)
@given(st.text(min_size=4, max_size=60), st.integers(1, 6))
def test_a_text_that_is_cut_keeps_its_laws(text, limit):
    check_map(text, limit)


@pytest.mark.parametrize(
    "text",
    [
        "👩‍👩‍👧 family",
        "e\u0301a\u0300",
        "שלום עולם",
        "\x00\x1b[31m\x7f",
        "<script>alert(1)</script>",
        "**bold** [x](y)",
        "\u200b\u202e",
        " \n\t ",
        "𝔘𝔫𝔦",
        "ｆｕｌｌ　ｗｉｄｔｈ",
        "한국어 문장",
        "１２３ 123 ²",
    ],
)
def test_strange_texts(text):
    check_map(text, 1000)


def test_words_of_plain_text():
    _, source = tokenizer.encode(LEARNED, "the cat's mat, 42!", 100)
    raw = source.text.encode()
    assert [raw[a:b].decode() for a, b in source.words] == [
        "the",
        " cat's",
        " mat",
        ",",
        " 42",
        "!",
    ]


def test_part_of_a_character_is_bracketed_with_its_neighbours():
    # 鱼 was never seen: three bytes, three tokens, one word
    _, source = tokenizer.encode(LEARNED, "鱼", 100)
    assert [t.span for t in source.tokens] == [(0, 1), (1, 2), (2, 3)]
    assert [t.text for t in source.tokens] == ["\\xe9", "\\xb1", "\\xbc"]
    assert source.words == ((0, 3),)
    assert [t.word for t in source.tokens] == [0, 0, 0]


def test_chinese_splits_at_characters_where_tokens_do():
    _, source = tokenizer.encode(LEARNED, "鱼天", 100)
    raw = source.text.encode()
    assert [raw[a:b].decode() for a, b in source.words] == ["鱼", "天"]
    # a token of several characters is one word
    _, source = tokenizer.encode(LEARNED, "今天天气很好", 100)
    assert len(source.words) == source.count < 6


def test_byte_sizes_are_those_of_the_spans():
    sizes = tokenizer.byte_sizes(LEARNED)
    ids, source = tokenizer.encode(LEARNED, "the 今天 cat 鱼!", 100)
    assert [int(sizes[i]) for i in ids] == [b - a for a, b in (t.span for t in source.tokens)]


def test_control_characters_are_shown_not_obeyed():
    assert tokenizer.visible("a\nb\x1b\u202ec") == "a↵b␛<202E>c"


# ---------------------------------------------------------------------------- patches


def test_patches_go_back_to_the_picture():
    pictures = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    rows = patches.to_patches(pictures, 8)
    assert rows.shape == (2, 16, 192)
    np.testing.assert_array_equal(patches.from_patches(rows, 8), pictures)
    # row 5 is the second patch of the second row of patches
    only = np.zeros((1, 32, 32, 3), np.uint8)
    only[:, 8:16, 8:16] = 255
    bright = patches.to_patches(only, 8)[0].mean(1)
    assert bright.argmax() == 5
    assert (bright > 0).sum() == 1


def test_a_mask_hides_the_same_share_of_every_row():
    mask = patches.random_mask(4, 64, 0.5, 7)
    assert mask.sum(1).tolist() == [32] * 4
    assert torch.equal(mask, patches.random_mask(4, 64, 0.5, 7))
    assert not torch.equal(mask, patches.random_mask(4, 64, 0.5, 8))


# ---------------------------------------------------------------------------- the transformer


def inputs_for(config: ModelConfig, batch: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    if config.kind == "text":
        return torch.randint(config.vocabulary, (batch, config.context), generator=generator)
    return torch.randn(batch, config.context, config.vocabulary, generator=generator)


@pytest.mark.parametrize("name", TINY)
def test_watching_changes_nothing(name):
    model = Transformer(TINY[name]).eval()
    x = inputs_for(TINY[name])
    with torch.inference_mode():
        bare = model(x)
        full = model(x, with_places=True, with_vectors=True)
    assert torch.equal(bare.output, full.output)
    blocks = TINY[name].blocks if TINY[name].moe else 0
    assert len(full.routing) == len(full.vectors) == len(model.moe_layers) == blocks
    assert not bare.vectors


@pytest.mark.parametrize("name", [n for n in TINY if n.startswith("text")])
def test_a_later_token_changes_nothing_before_it(name):
    model = Transformer(TINY[name]).eval()
    x = inputs_for(TINY[name], batch=1)
    other = x.clone()
    other[0, 9] = (x[0, 9] + 1) % VOCABULARY
    with torch.inference_mode():
        before, after = model(x), model(other)
    torch.testing.assert_close(before.output[:, :9], after.output[:, :9])
    assert not torch.allclose(before.output[:, 9:], after.output[:, 9:])
    heads = TINY[name].heads
    for a, b in zip(before.routing, after.routing, strict=True):
        assert torch.equal(a.expert[:, : 9 * heads], b.expert[:, : 9 * heads])


def test_a_hidden_patch_is_really_hidden():
    config = TINY["image-e8-h4"]
    model = Transformer(config).eval()
    x = inputs_for(config)
    masked = patches.random_mask(2, config.context, 0.5, 0)
    other = torch.where(masked[..., None], x + 5, x)
    with torch.inference_mode():
        assert torch.equal(model(x, masked=masked).output, model(other, masked=masked).output)
        assert not torch.equal(model(x).output, model(other).output)


@pytest.mark.parametrize("name", TINY)
def test_counts(name):
    _counts(TINY[name])


def test_counts_of_narrow_attention():
    _counts(replace(TINY["text-e8"], attention_width=8))


def _counts(config):
    model = Transformer(config)
    counts = model.counts()
    assert counts["params_total"] == sum(p.numel() for p in model.parameters())
    idle = 0
    for _, layer in model.moe_layers:
        unused = layer.config.experts - layer.config.top_k
        idle += unused * (layer.experts.w_in[0].numel() + layer.experts.w_out[0].numel())
    assert counts["params_active"] == counts["params_total"] - idle
    # every matrix is one multiplication per weight and token; positions, norms and the text
    # embedding are none, but the text's output is its embedding; attention adds 2 T D a block
    macs = config.blocks * 2 * config.context * (config.attention_width or config.d_model)
    for p_name, p in model.named_parameters():
        ffn = ".experts." in p_name or ".router." in p_name
        if p.dim() > 1 and p_name != "position" and not ffn:
            macs += p.numel()
    for _, layer in model.moe_layers:
        c = layer.config
        macs += c.heads * (c.top_k * 2 * c.d_head * c.d_ff + c.experts * c.d_head)
    assert counts["macs_per_token"] == macs


@pytest.mark.parametrize("name", TINY)
def test_a_shape_survives_a_card(name):
    assert ModelConfig.from_dict(json.loads(json.dumps(TINY[name].to_dict()))) == TINY[name]


@pytest.mark.parametrize("router", METHODS)
def test_every_router_fits_a_model_and_its_checkpoint(models, router, tmp_path):
    moe = MoEConfig(d_model=16, d_ff=32, experts=4, heads=2, router=router)
    config = replace(TINY["text-e8"], moe=moe)
    checkpoint.save(Transformer(config), "other", {"metrics": {}})
    loaded = engine.load("other")
    assert loaded.model.config == config
    (trace,) = engine.trace_text(loaded, "She sells sea shells.", vectors=True)
    trace.save(tmp_path / "t.safetensors")
    assert RoutingTrace.load(tmp_path / "t.safetensors").to_dict() == trace.to_dict()
    assert [layer.router for layer in trace.layers] == [router] * 2


# ---------------------------------------------------------------------------- checkpoints


def test_a_checkpoint_is_the_model_in_half_precision(models):
    model, card = checkpoint.load("text-e8-h4")
    fresh = Transformer(TINY["text-e8-h4"], seed=3)
    for name, value in fresh.state_dict().items():
        assert torch.equal(model.state_dict()[name], value.half().float())
    assert model.config == TINY["text-e8-h4"]
    assert card["bytes"] == (models / card["file"]).stat().st_size
    assert card["params_total"] == model.counts()["params_total"]
    assert checkpoint.names() == sorted(TINY)


def test_an_unknown_model_lists_the_known(models):
    with pytest.raises(checkpoint.CheckpointError, match=r"'gpt'.*image-ffn, .*text-e8"):
        checkpoint.load("gpt")
    with pytest.raises(checkpoint.CheckpointError, match="Unknown"):
        checkpoint.load("../models/text-e8")


def test_missing_weights(models):
    (models / "text-e8.safetensors").unlink()
    with pytest.raises(checkpoint.CheckpointError, match=r"text-e8.safetensors.* are missing"):
        checkpoint.load("text-e8")


def test_one_flipped_bit(models):
    path = models / "text-e8.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-7] ^= 1
    path.write_bytes(raw)
    with pytest.raises(checkpoint.CheckpointError, match=r"text-e8.safetensors are damaged"):
        checkpoint.load("text-e8")


@pytest.mark.parametrize("content", ["{", "[]", "{}", "3", '{"name": "text-e8"}', "\udcff"])
def test_a_card_that_is_none(models, content):
    (models / "text-e8.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(checkpoint.CheckpointError, match=r"text-e8.json cannot be read"):
        checkpoint.load("text-e8")


def test_a_card_of_another_shape(models):
    path = models / "text-e8.json"
    card = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps(card | {"config": card["config"] | {"d_model": 32}}), "utf-8")
    with pytest.raises(checkpoint.CheckpointError, match=r"do not fit|cannot be read"):
        checkpoint.load("text-e8")
    path.write_text(json.dumps(card | {"config": card["config"] | {"colour": "red"}}), "utf-8")
    with pytest.raises(checkpoint.CheckpointError, match="cannot be read"):
        checkpoint.load("text-e8")


def test_a_missing_tokenizer(models):
    checkpoint.tokenizer_path().unlink()
    with pytest.raises(checkpoint.CheckpointError, match=r"tokenizer.json cannot be read"):
        engine.trace_text(engine.load("text-e8"), "hello")


# ---------------------------------------------------------------------------- the engine


def picture(seed: int = 0) -> DecodedImage:
    pixels = np.random.default_rng(seed).integers(0, 256, (128, 128, 3), np.uint8)
    return DecodedImage(pixels=pixels, crop=(0, 0, 128, 128), size=(128, 128), format="PNG")


def test_the_same_text_gives_the_same_trace_byte_for_byte(models, tmp_path):
    for i in range(2):
        engine.load.cache_clear()
        (trace,) = engine.trace_text(engine.load("text-e8-h4"), "She sells 今天")
        trace.save(tmp_path / f"{i}")
    assert (tmp_path / "0").read_bytes() == (tmp_path / "1").read_bytes()


def test_nats_are_the_loss_of_each_token(models):
    loaded = engine.load("text-e8")
    (trace,) = engine.trace_text(loaded, "The quick fox")
    ids, _ = engine.encode(loaded, "The quick fox")
    with torch.inference_mode():
        output = loaded.model(torch.tensor([ids])).output[0].log_softmax(-1)
    assert np.isnan(trace.nats[0])
    for t in range(1, len(ids)):
        assert trace.nats[t] == pytest.approx(-output[t - 1, ids[t]].item(), rel=1e-5)


@pytest.mark.parametrize("rows", [3, 900])
def test_nats_and_their_gradient_are_those_of_torch(rows):
    """Of 900 rows the pieces that stay in the cache are several, the last one shorter."""
    draw = torch.Generator().manual_seed(rows)
    logits = torch.randn(rows, 17, 301, generator=draw, dtype=torch.float64, requires_grad=True)
    ids = torch.randint(0, 301, (rows, 17), generator=draw)
    masked = patches.random_mask(rows, 17, 0.4, [rows])

    def torchs(rows_NV, target_N):
        return F.cross_entropy(rows_NV, target_N, reduction="none")

    whole = torchs(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).view(rows, 16)
    pairs = [
        (metrics.token_nats(logits, ids), whole),
        (metrics.token_nats(logits, ids, masked), torchs(logits[masked], ids[masked])),
    ]
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs)
        weight = torch.randn(ours.shape, generator=draw, dtype=torch.float64)
        slopes = [torch.autograd.grad((n * weight).sum(), logits)[0] for n in (ours, theirs)]
        torch.testing.assert_close(*slopes)


def test_one_token_is_enough(models):
    (trace,) = engine.trace_text(engine.load("text-e8-h4"), "a")
    assert trace.input.count == 1
    assert trace.bits_per_byte is None
    assert trace.layers[0].sub_tokens == 4


@pytest.mark.parametrize("blank", ["", "   ", "\n\t", "\u3000"])
def test_blank_text_is_refused(models, blank):
    with pytest.raises(engine.InputProblem) as caught:
        engine.trace_text(engine.load("text-e8"), blank)
    assert caught.value.code == "blank"


def test_long_text_is_cut_to_the_context(models):
    (trace,) = engine.trace_text(engine.load("text-e8"), "fox " * 100)
    assert trace.input.count == 16
    assert engine.count_tokens("fox " * 100) > 100
    assert ("fox " * 100).startswith(trace.input.text)


def test_capacity_factors_rerun_the_whole_model(models):
    loaded = engine.load("text-e8-h4")
    factors = (None, 0.5)
    many = engine.trace_text(loaded, "She sells sea shells", WhatIf(capacity_factors=factors))
    for factor, trace in zip(factors, many, strict=True):
        (alone,) = engine.trace_text(
            loaded, "She sells sea shells", WhatIf(capacity_factors=(factor,))
        )
        for a, b in zip(trace.layers, alone.layers, strict=True):
            np.testing.assert_array_equal(a.expert, b.expert)
            np.testing.assert_allclose(a.logits, b.logits, rtol=1e-4, atol=1e-5)
    # block 1 sees what block 0 dropped: its scores are not those of the free run
    assert not np.allclose(many[0].layers[1].logits, many[1].layers[1].logits)


def test_an_image_is_traced_as_its_patches(models):
    (trace,) = engine.trace_image(engine.load("image-e8-h4"), picture())
    assert trace.input.grid == (4, 4)
    assert trace.nats is None
    assert [layer.sub_tokens for layer in trace.layers] == [64, 64]
    (dense,) = engine.trace_image(engine.load("image-ffn"), picture())
    assert dense.layers == ()


def test_a_variant_keeps_everything_but_the_experts(models):
    base = engine.load("text-e8")
    other = engine.variant("text-e8", heads=2, experts=8)
    assert not other.trained
    assert (other.model.config.heads, other.model.config.moe.experts) == (2, 8)
    assert other.model.config.moe.top_k == 2
    for name, value in base.model.state_dict().items():
        if ".ffn." not in name:
            assert torch.equal(other.model.state_dict()[name], value)
    (trace,) = engine.trace_text(other, "hello there")
    assert trace.layers[0].experts == 8
    assert engine.variant("text-e8", heads=1, experts=2).model.config.moe.projections is False


def test_text_is_measured_on_full_windows_only(models):
    loaded = engine.load("text-e8")
    text = "The quick brown fox jumps over the dog. " * 4
    numbers = engine.evaluate_text(loaded, text)
    windows = engine.count_tokens(text) // 16
    assert numbers["tokens"] == windows * 15  # the first token of a window is not predicted
    assert numbers["bits_per_byte"] == pytest.approx(
        np.log2(numbers["perplexity"]) * numbers["tokens"] / numbers["bytes"]
    )
    with pytest.raises(engine.InputProblem, match="window of 16"):
        engine.evaluate_text(loaded, "fox")


def test_the_baseline_predicts_the_mean_colour_that_is_visible():
    # left half black, right half white; one patch of each is hidden, one of each is seen
    pixels = np.zeros((1, 64, 64, 3), np.uint8)
    pixels[:, :, 32:] = 255
    config = ModelConfig(**(TINY["image-ffn"].to_dict() | {"context": 4}))
    model = Transformer(config).eval()
    masks = {seed: patches.random_mask(1, 4, 0.5, [seed, 0])[0].tolist() for seed in range(40)}
    seed = next(s for s, m in masks.items() if m[0] + m[2] == 1)  # patches 0 and 2 are black
    numbers = metrics.image_metrics(model, pixels, seed=seed)
    # the mean of what is seen is 0.5, so every hidden pixel is off by 0.5
    assert numbers["baseline_error"] == pytest.approx(0.25)
    assert numbers["patches"] == 2
    assert numbers["relative_error"] == pytest.approx(numbers["masked_error"] / 0.25)


# ---------------------------------------------------------------------------- devices


def test_devices(monkeypatch):
    monkeypatch.setenv("MHMOE_DEVICE", "cpu")
    assert device.choose() == torch.device("cpu")
    assert device.describe(device.choose()) == "CPU"
    monkeypatch.setenv("MHMOE_DEVICE", "tpu")
    with pytest.raises(device.DeviceError, match="'tpu'; known are auto, cpu, cuda, mps"):
        device.choose()
    assert device.choose("cpu").type == "cpu"  # the option wins over the environment
    with pytest.raises(device.DeviceError, match="does not name a device"):
        device.choose("cpu:x")


def test_a_device_that_is_absent(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(device.DeviceError, match="this machine has none; use one of cpu"):
        device.choose("cuda")
    assert device.choose("auto").type == "cpu"
