"""The encoder of text: it sees both sides, and learns hidden tokens only."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import TINY, VOCABULARY

from mhmoe.models import checkpoint, engine, metrics, tokenizer
from mhmoe.models.patches import random_mask
from mhmoe.models.transformer import Transformer
from mhmoe.training.loop import Job
from mhmoe.training.recipe import Recipe

DECODER = TINY["text-e8"]
ENCODER = replace(DECODER, causal=False)
IDS = torch.arange(32).view(2, 16) + 5


@torch.inference_mode()
def output(config, ids, masked=None):
    return Transformer(config, seed=1).eval()(ids, masked=masked).output


def test_only_an_encoder_sees_what_comes_after():
    changed = IDS.clone()
    changed[:, -1] = 7
    assert torch.equal(output(DECODER, IDS)[:, :-1], output(DECODER, changed)[:, :-1])
    assert not torch.allclose(output(ENCODER, IDS)[:, 0], output(ENCODER, changed)[:, 0])


def test_a_hidden_token_cannot_be_read():
    masked = torch.zeros(2, 16, dtype=torch.bool)
    masked[:, 3] = True
    changed = IDS.clone()
    changed[:, 3] = 7
    assert torch.equal(output(ENCODER, IDS, masked), output(ENCODER, changed, masked))


def test_numbers_are_those_of_the_hidden_tokens():
    model = Transformer(ENCODER).eval()
    torch.nn.init.zeros_(model.embed.weight)  # tied to the output: all tokens are equally likely
    windows = np.random.default_rng(0).integers(0, VOCABULARY, (20, 16))
    sizes = np.arange(1, VOCABULARY + 1)
    found = metrics.text_metrics(model, windows, sizes, mask_ratio=0.25, seed=3)
    hidden = np.concatenate(
        [random_mask(n, 16, 0.25, [3, at]).numpy() for n, at in ((16, 0), (4, 16))]
    )
    assert found["tokens"] == hidden.sum() == 20 * 4
    assert found["bytes"] == sizes[windows[hidden]].sum()
    assert found["perplexity"] == pytest.approx(VOCABULARY, rel=1e-5)
    bits = np.log2(VOCABULARY) * found["tokens"] / found["bytes"]
    assert found["bits_per_byte"] == pytest.approx(bits, rel=1e-5)
    assert found["mask_ratio"] == 0.25
    assert "mask_ratio" not in metrics.text_metrics(Transformer(DECODER).eval(), windows, sizes)


def test_an_encoder_learns_what_is_hidden(tmp_path, text_dir, models):
    recipe = Recipe(
        name="encoder",
        model=ENCODER,
        data="text",
        steps=30,
        batch=12,
        learning_rate=1e-2,
        seed=1,
        warmup=2,
        mask_ratio=0.25,
    )
    job = Job(recipe, tmp_path, text_dir=text_dir)
    before = job.validate()
    job.run()
    after = job.validation[-1]
    assert after["mask_ratio"] == 0.25
    assert after["bits_per_byte"] < 0.8 * before["bits_per_byte"]


def test_a_trace_of_an_encoder_has_no_loss(models):
    checkpoint.save(Transformer(ENCODER, seed=3), "text-encoder", {"recipe": {"mask_ratio": 0.25}})
    loaded = engine.load("text-encoder")
    (trace,) = engine.trace_text(loaded, "The quick brown fox")
    assert trace.nats is None
    assert trace.bits_per_byte is None
    assert len(trace.layers) == ENCODER.blocks
    text = "The quick brown fox jumps over the dog. " * 8
    numbers = engine.evaluate_text(loaded, text)
    ids = checkpoint.load_tokenizer().encode(text).ids
    windows = np.asarray(ids[: len(ids) // 16 * 16]).reshape(-1, 16)
    sizes = tokenizer.byte_sizes(checkpoint.load_tokenizer())
    assert numbers == metrics.text_metrics(loaded.model, windows, sizes, mask_ratio=0.25)
