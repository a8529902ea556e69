"""Pictures with captions: one sequence, both hidden in part, traced, measured and described."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import PAIRS as SHAPE
from tiny import TINY, VOCABULARY, Cut, cut_at

from mhmoe import cli
from mhmoe.models import checkpoint, engine, metrics, tokenizer
from mhmoe.models.images import DecodedImage, decode
from mhmoe.models.transformer import Transformer
from mhmoe.trace import RoutingTrace
from mhmoe.training import captions, loop, scenes, ship, tasks
from mhmoe.training.loop import Job
from mhmoe.training.processes import TrainingError
from mhmoe.training.recipe import Recipe

NAME = "image-text-e8-h4"
T, L = SHAPE.context, SHAPE.caption


@pytest.fixture
def loaded(models):
    checkpoint.save(Transformer(SHAPE, seed=3), NAME, {"metrics": {}})
    return engine.load(NAME)


@torch.inference_mode()
def run(patches, ids, masked=None):
    return Transformer(SHAPE, seed=1).eval()(patches, ids, masked=masked)


def drawn(seed=0):
    generator = torch.Generator().manual_seed(seed)
    patches = torch.randn(2, T, SHAPE.vocabulary, generator=generator)
    return patches, torch.randint(VOCABULARY, (2, L), generator=generator)


# ---------------------------------------------------------------------------- model


def test_words_see_patches_and_patches_see_words():
    patches, ids = drawn()
    whole = run(patches, ids)
    assert whole.output.shape == patches.shape
    assert whole.caption.shape == (2, L, VOCABULARY)
    other_patches, other_ids = drawn(1)
    assert not torch.allclose(run(other_patches, ids).caption, whole.caption)
    assert not torch.allclose(run(patches, other_ids).output, whole.output)


def test_what_is_hidden_cannot_be_read():
    patches, ids = drawn()
    masked = torch.zeros(2, T + L, dtype=torch.bool)
    masked[:, [3, T + 2]] = True
    changed, others = patches.clone(), ids.clone()
    changed[:, 3] = 0
    others[:, 2] = 7
    before, after = run(patches, ids, masked), run(changed, others, masked)
    assert torch.equal(before.output, after.output)
    assert torch.equal(before.caption, after.caption)


def test_a_picture_alone_is_a_sequence_of_patches():
    patches, _ = drawn()
    with torch.inference_mode():
        alone = Transformer(SHAPE, seed=1).eval()(patches)
    assert alone.caption is None
    assert alone.output.shape == patches.shape


def test_parameters_and_multiplications():
    picture = TINY["image-e8-h4"]
    one, many = (Transformer(shape).counts() for shape in (picture, SHAPE))
    more = (VOCABULARY + L) * SHAPE.d_model
    assert many["params_total"] - one["params_total"] == more
    ends = (2 * T * SHAPE.vocabulary + L * VOCABULARY) * SHAPE.d_model / (T + L)
    attention = 2 * L * SHAPE.d_attention * SHAPE.blocks
    before = one["macs_per_token"] - 2 * SHAPE.vocabulary * SHAPE.d_model
    assert many["macs_per_token"] == round(before + attention + ends)


# ---------------------------------------------------------------------------- trace


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def picture() -> DecodedImage:
    pixels = scenes.scene(np.random.default_rng(0))
    return decode(png(pixels), SHAPE.grid * SHAPE.patch)


def test_a_trace_holds_patches_then_tokens(loaded, tmp_path):
    (trace,) = engine.trace_pair(loaded, "A red disc.", picture())
    assert trace.input.kind == "image-text"
    tokens = trace.input.caption.tokens
    assert trace.input.count == T + len(tokens)
    assert "".join(t.text for t in tokens) == "A red disc."[: len("".join(t.text for t in tokens))]
    for layer in trace.layers:
        assert layer.sub_tokens == (T + len(tokens)) * SHAPE.heads
    assert trace.nats is None
    trace.save(tmp_path / "pair.safetensors")
    again = RoutingTrace.load(tmp_path / "pair.safetensors")
    assert again.input == trace.input
    assert again.to_dict() == trace.to_dict()


def test_another_caption_changes_where_patches_go(loaded):
    first, second = (
        engine.trace_pair(loaded, text, picture())[0].layers[-1].logits[: T * SHAPE.heads]
        for text in ("A red disc.", "Hills.")
    )
    assert not np.allclose(first, second)


def test_the_command_line_takes_a_picture_with_its_caption(loaded, tmp_path, capsys):
    (tmp_path / "scene.png").write_bytes(png(picture().pixels))
    image = str(tmp_path / "scene.png")
    line = ["trace", "--model", NAME, "--image", image, "--text", "A red disc on the left. " * 4]
    assert cli.main([*line, "--json"]) == 0
    said = capsys.readouterr()
    data = json.loads(said.out)["input"]
    assert (data["kind"], data["grid"], len(data["tokens"])) == ("image-text", [4, 4], L)
    assert f"the first {L} were used" in said.err
    assert cli.main(line) == 0
    assert "4 x 4 patches of the square (0, 0, 128, 128) of the picture, 8 tokens in" in (
        capsys.readouterr().out
    )
    for wrong, message in (
        (line[:5], f"'{NAME}' is of kind image-text, the input of kind image."),
        (["trace", "--model", NAME], "Give --text, --text-file or --image"),
        (["trace", "--model", "image-e8", *line[3:]], "the input of kind image-text"),
    ):
        assert cli.main(wrong) == 2
        assert message in capsys.readouterr().err


# ---------------------------------------------------------------------------- numbers


def test_captions_are_measured_where_they_are_hidden(loaded):
    model = Transformer(SHAPE).eval()
    torch.nn.init.zeros_(model.embed_caption.weight)  # tied: all tokens are equally likely
    pictures = np.stack([scenes.scene(np.random.default_rng(i)) for i in range(3)])
    ids = np.random.default_rng(0).integers(0, VOCABULARY, (3, L))
    filled = np.zeros((3, L), bool)
    filled[1, 2:] = True
    sizes = np.arange(1, VOCABULARY + 1)
    found = metrics.caption_metrics(model, pictures, ids, filled, sizes, mask_ratio=1)
    assert found["caption_tokens"] == 2 * L + 2
    assert found["caption_bytes"] == sizes[ids[~filled]].sum()
    bits = np.log2(VOCABULARY) * found["caption_tokens"] / found["caption_bytes"]
    for name in ("caption_bits_per_byte", "caption_bits_per_byte_other_picture"):
        assert found[name] == pytest.approx(bits, rel=1e-5)


def test_another_picture_is_another_number(loaded):
    pictures, texts = captions.paired_validation(4)
    ids, filled = tokenizer.filled(checkpoint.load_tokenizer(), texts, L)
    sizes = tokenizer.byte_sizes(checkpoint.load_tokenizer())
    found = metrics.caption_metrics(loaded.model, pictures, ids, filled, sizes)
    assert found["caption_bits_per_byte"] != found["caption_bits_per_byte_other_picture"]
    turned = metrics.caption_metrics(loaded.model, np.roll(pictures, -1, 0), ids, filled, sizes)
    other = "caption_bits_per_byte_other_picture"
    assert turned["caption_bits_per_byte"] == pytest.approx(found[other], rel=1e-6)


def test_patches_are_guessed_beside_whole_captions(loaded, capsys):
    assert cli.main(["evaluate", "--model", NAME, "--scenes", "4", "--json"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    pictures, texts = captions.paired_validation(4)
    ids, _ = tokenizer.filled(checkpoint.load_tokenizer(), texts, L)
    beside = metrics.image_metrics(loaded.model, pictures, captions=ids)
    assert numbers["masked_error"] == pytest.approx(beside["masked_error"], rel=1e-6)
    assert beside["masked_error"] != metrics.image_metrics(loaded.model, pictures)["masked_error"]
    assert (
        numbers["baseline_error"] == metrics.image_metrics(loaded.model, pictures)["baseline_error"]
    )


def test_texts_are_cut_and_filled(models):
    bpe = checkpoint.load_tokenizer()
    short, long = "A", "A red striped disc at the top left. " * 3
    ids, filled = tokenizer.filled(bpe, [short, long], L)
    assert ids.shape == filled.shape == (2, L)
    assert filled.tolist() == [[False] + [True] * (L - 1), [False] * L]
    assert bpe.decode(ids[0].tolist()) == "A" + "\n" * (L - 1)
    assert ids[1].tolist() == bpe.encode(long).ids[:L]


# ---------------------------------------------------------------------------- captions


def test_a_caption_says_what_is_to_be_seen_from_front_to_back():
    def item(shape, texture, colour, centre, radius):
        return scenes.Item(shape, texture, colour, centre, radius)

    owner = np.full((128, 128), -1, np.int8)
    owner[:40, :40], owner[60:70, 60:70], owner[100:104, 100:104] = 0, 1, 2
    scene = scenes.Scene(
        pixels=np.zeros((128, 128, 3), np.uint8),
        items=(
            item("star", "stripes", "red", (20.0, 20.0), 30.0),
            item("disc", "flat", "orange", (65.0, 65.0), 20.0),
            item("ring", "dots", "blue", (102.0, 130.0), 8.0),  # 16 pixels in view: not said
        ),
        owner=owner,
        background="hills",
    )
    assert captions.caption(scene) == (
        "An orange plain disc in the middle. A large red striped star at the top left. "
        "Hills under the sky."
    )


def test_pairs_are_a_function_of_seed_and_step():
    first, again = (captions.paired_batch(1, 5, 3) for _ in range(2))
    np.testing.assert_array_equal(first[0], again[0])
    assert first[1] == again[1]
    assert first[1] != captions.paired_batch(1, 6, 3)[1]
    assert first[1] != captions.paired_batch(2, 5, 3)[1]
    assert captions.paired_validation(2)[1] == captions.paired_validation(3)[1][:2]
    every = [text for step in range(20) for text in captions.paired_batch(1, step, 3)[1]]
    assert len(set(every)) > 50


# ---------------------------------------------------------------------------- training

RECIPE = Recipe(
    name="image-text-tiny",
    model=SHAPE,
    data="image-text",
    steps=6,
    batch=4,
    learning_rate=1e-2,
    seed=1,
    balance=0.01,
    warmup=2,
    ship=True,
)


@pytest.fixture
def few(models, monkeypatch):
    monkeypatch.setattr(loop, "SAVE_EVERY", 2)
    monkeypatch.setattr(loop, "REPORT_EVERY", 2)
    monkeypatch.setattr(tasks, "VALIDATION", 3)
    monkeypatch.setattr(tasks, "CARD_PICTURES", 3)


def test_both_halves_teach_by_what_is_hidden(few, tmp_path):
    job = Job(RECIPE, tmp_path)
    asked = []
    forward = job.model.forward
    job.model.forward = lambda *inputs, **options: (
        asked.append((inputs, options)) or forward(*inputs, **options)
    )
    loss, run = job._loss()
    ((patches, ids), options) = asked[0]
    masked = options["masked"]
    texts = captions.paired_batch(1, 0, 4)[1]
    expected, filled = tokenizer.filled(checkpoint.load_tokenizer(), texts, L)
    np.testing.assert_array_equal(ids, expected)
    assert masked[:, :T].sum(1).tolist() == [T // 2] * 4
    assert not (masked[:, T:] & torch.from_numpy(filled)).any()
    words, seen = masked[:, T:], masked[:, :T]
    error = (run.output - patches)[seen].square().mean()
    nats = torch.nn.functional.cross_entropy(run.caption[words], ids[words])
    assert loss.item() == pytest.approx((error + nats).item(), rel=1e-5)
    heavy = Job(replace(RECIPE, name="heavy", caption_weight=3.0), tmp_path)
    assert heavy._loss()[0].item() == pytest.approx((error + 3 * nats).item(), rel=1e-5)


def test_an_interrupted_run_of_pairs_is_the_uninterrupted_one(few, tmp_path):
    whole, parts, again = (Job(RECIPE, tmp_path / folder) for folder in ("a", "b", "b"))
    whole.run()
    with pytest.raises(Cut):
        parts.run(cut_at(4))
    assert again.resume()
    again.run()
    assert again.loss_log == whole.loss_log
    assert again.validation == whole.validation
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), name


def test_pairs_are_learned_and_shipped(few, tmp_path):
    job = Job(replace(RECIPE, steps=40), tmp_path)
    before = job.validate()
    job.run()
    after = job.validation[-1]
    for name in ("masked_error", "caption_bits_per_byte"):
        assert after[name] < 0.9 * before[name]
    ship.ship(job)
    card = checkpoint.card(RECIPE.name)
    assert card["metrics"]["caption_bits_per_byte"] > 0
    assert card["training"]["tokens"] == 40 * 4 * (T + L)
    assert card["config"]["kind"] == "image-text"
    assert [source["licence"] for source in card["data"]] == ["CC0 1.0", "CC0 1.0"]


def test_captions_need_a_tokenizer(few, tmp_path):
    checkpoint.tokenizer_path().unlink()
    tokenizer.load.cache_clear()
    with pytest.raises(TrainingError, match=r"There is no tokenizer in .* --text-dir"):
        Job(RECIPE, tmp_path)
