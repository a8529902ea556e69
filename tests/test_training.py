"""Training: the same bits again, nothing lost to a cut, and what is shipped at the end."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file
from tiny import TINY, VOCABULARY, Cut, cut_at, shape_of

from mhmoe.models import checkpoint, engine, metrics
from mhmoe.models.transformer import Transformer
from mhmoe.training import loop, recipe, scenes, ship, step, tasks, text
from mhmoe.training.loop import Job, TrainingError
from mhmoe.training.recipe import Recipe

SMALL = dict(steps=6, batch=6, learning_rate=1e-2, seed=1, balance=0.01, warmup=2)


def tiny(name: str = "text-e8-h4", **changes) -> Recipe:
    return Recipe(**(dict(name=name, model=TINY[name], data=name.split("-")[0]) | SMALL | changes))


@pytest.fixture(autouse=True)
def _often(monkeypatch, models):
    """Save, report and validate a small run as often as it has steps."""
    monkeypatch.setattr(loop, "SAVE_EVERY", 2)
    monkeypatch.setattr(loop, "REPORT_EVERY", 2)
    monkeypatch.setattr(tasks, "VALIDATION", 6)
    monkeypatch.setattr(tasks, "CARD_WINDOWS", 2)
    monkeypatch.setattr(tasks, "CARD_PICTURES", 2)


def assert_same_run(a: Job, b: Job) -> None:
    assert a.step == b.step
    assert a.loss_log == b.loss_log
    assert a.validation == b.validation
    for name, value in a.model.state_dict().items():
        assert torch.equal(value, b.model.state_dict()[name]), name
    for name, value in a.log().items():
        assert torch.equal(value, b.log()[name]), name


# ---------------------------------------------------------------------------- the loop


@pytest.mark.parametrize("name", ["text-e8-h4", "text-ffn", "image-e8"])
def test_an_interrupted_run_is_the_uninterrupted_one(name, tmp_path, text_dir):
    whole = Job(tiny(name), tmp_path / "a", text_dir=text_dir)
    whole.run()
    parts = Job(tiny(name), tmp_path / "b", text_dir=text_dir)
    with pytest.raises(Cut):
        parts.run(cut_at(4))
    again = Job(tiny(name), tmp_path / "b", text_dir=text_dir)
    assert again.resume()
    assert again.step == 4
    again.run()
    assert_same_run(whole, again)
    assert len(whole.loss_log) == 6
    assert len(whole.validation) == 6  # all of the eight times that fall on different steps


def test_snapshots_are_the_weights_of_their_steps(tmp_path, text_dir):
    whole = Job(tiny(snapshots=(2, 5)), tmp_path / "a", text_dir=text_dir)
    whole.run()
    short = Job(tiny(snapshots=(2, 5)), tmp_path / "b", text_dir=text_dir)
    with pytest.raises(Cut):
        short.run(cut_at(2))
    kept = load_file(str(whole.snapshot(2)))
    assert not short.snapshot(5).exists()
    for name, weight in short.model.state_dict().items():
        np.testing.assert_array_equal(kept[name], weight.half().numpy(), strict=True)
    later = load_file(str(whole.snapshot(5)))
    assert any((kept[name] != later[name]).any() for name in kept)
    whole.discard()
    assert not whole.snapshot(2).exists()


@pytest.mark.parametrize("step", [0, 6, 7])
def test_a_snapshot_lies_within_the_run(step, tmp_path):
    path = tmp_path / "own.toml"
    path.write_text(
        'data = "text"\nsteps = 6\nbatch = 6\nlearning_rate = 1e-3\n'
        f"seed = 1\nsnapshots = [{step}]\n{shape_of('text-ffn')}"
    )
    with pytest.raises(recipe.RecipeError, match=f"snapshots at \\[{step}\\] do not lie"):
        Recipe.load(str(path))


def test_another_seed_is_another_run(tmp_path, text_dir):
    runs = [Job(tiny(seed=seed, steps=1), tmp_path, text_dir=text_dir) for seed in (1, 2)]
    for job in runs:
        job.run()
    assert runs[0].folder != runs[1].folder
    assert runs[0].loss_log != runs[1].loss_log


def test_a_few_steps_learn_something(tmp_path, text_dir):
    job = Job(tiny("text-e8", steps=30, warmup=1), tmp_path, text_dir=text_dir)
    job.run()
    assert job.loss_log[-1] < job.loss_log[0] - 0.5
    assert job.validation[-1]["bits_per_byte"] < job.validation[0]["bits_per_byte"]


def test_what_a_run_reports(tmp_path, text_dir):
    seen = []
    Job(tiny(), tmp_path, text_dir=text_dir).run(seen.append)
    assert [p.step for p in seen] == [2, 4, 6]
    for p in seen:
        assert 0 <= p.idlest <= 1 / 4 <= p.busiest <= 1
        assert p.tokens_per_second > 0
    assert seen[-1].seconds_left == 0


def test_a_dense_run_logs_no_routing(tmp_path, text_dir):
    job = Job(tiny("text-ffn", steps=2), tmp_path, text_dir=text_dir)
    job.run()
    assert set(job.log()) == {"loss"}


def test_shares_are_logged_for_every_step_and_layer(tmp_path, text_dir):
    job = Job(tiny(steps=3), tmp_path, text_dir=text_dir)
    job.run()
    for name in ("demand", "importance"):
        shares = job.log()[name].float()
        assert shares.shape == (3, 2, 4)
        torch.testing.assert_close(shares.sum(-1), torch.ones(3, 2), atol=2e-3, rtol=0)


@pytest.mark.parametrize("broken", ["loss", "gradient"])
def test_nan_stops_with_a_sentence_and_the_last_good_state(broken, tmp_path, text_dir):
    job = Job(tiny(), tmp_path, text_dir=text_dir)
    good = job._loss

    def bad_at_three():
        task, run = good()
        if job.step < 3:
            return task, run
        if broken == "loss":
            return task * float("nan"), run
        # the root of 0 is 0, but its slope is not finite
        weight = job.model.norm.weight
        return task + (weight - weight.detach()).abs().sqrt().sum(), run

    job._loss = bad_at_three
    with pytest.raises(TrainingError, match=f"The {broken} became .* at step 3; stopped"):
        job.run()
    kept = Job(tiny(), tmp_path, text_dir=text_dir)
    assert kept.resume()
    assert kept.step == 2
    assert all(torch.isfinite(p).all() for p in kept.model.parameters())


@pytest.mark.parametrize(
    "error",
    [OSError(28, "No space left on device"), SafetensorError("I/O error: No space left on device")],
)
def test_a_full_disk_keeps_the_state_before(error, tmp_path, text_dir, monkeypatch):
    job = Job(tiny(), tmp_path, text_dir=text_dir)
    with pytest.raises(Cut):
        job.run(cut_at(2))

    def full(tensors, path):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(loop, "save_file", full)
        with pytest.raises(TrainingError, match=r"state could not be .*No space left.* is kept"):
            job.run()
        with pytest.raises(TrainingError, match=r"snapshot of step 4 could .*No space .* is kept"):
            job.save_snapshot()
    kept = Job(tiny(), tmp_path, text_dir=text_dir)
    assert kept.resume()
    assert kept.step == 2


@pytest.mark.parametrize("moment", ["between the renames", "before the old is gone"])
def test_a_cut_while_saving_loses_nothing(moment, tmp_path, text_dir):
    job = Job(tiny(), tmp_path, text_dir=text_dir)
    with pytest.raises(Cut):
        job.run(cut_at(2))
    shutil.copytree(job.folder / "last", job.folder / "old")
    if moment == "between the renames":
        (job.folder / "last").rename(job.folder / "new")
    again = Job(tiny(), tmp_path, text_dir=text_dir)
    assert again.resume()
    assert again.step == 2
    again.run()
    assert not (again.folder / "old").exists()


def test_no_state_and_a_discarded_one(tmp_path, text_dir):
    job = Job(tiny(steps=2), tmp_path, text_dir=text_dir)
    assert not job.resume()
    job.run()
    job.discard()
    assert not job.resume()


@pytest.mark.parametrize("file", ["state.json", "state.safetensors", "log.safetensors"])
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_damaged_state_says_so(file, damage, tmp_path, text_dir):
    job = Job(tiny(steps=2), tmp_path, text_dir=text_dir)
    job.run()
    path = job.folder / "last" / file
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:20])
    else:
        path.unlink()
    with pytest.raises(TrainingError, match="is damaged"):
        Job(tiny(steps=2), tmp_path, text_dir=text_dir).resume()


def test_a_state_of_another_recipe_is_not_continued(tmp_path, text_dir):
    Job(tiny(steps=2), tmp_path, text_dir=text_dir).run()
    with pytest.raises(TrainingError, match="another version of the recipe text-e8-h4"):
        Job(tiny(steps=4), tmp_path, text_dir=text_dir).resume()


def test_the_learning_rate_warms_up_and_falls_to_a_tenth():
    long = tiny(steps=100, warmup=10)
    assert step.schedule(0, long) == pytest.approx(0.1)
    assert step.schedule(9, long) == 1
    assert step.schedule(10, long) == 1
    assert step.schedule(55, long) == pytest.approx(0.55)  # half way down a cosine
    assert step.schedule(100, long) == pytest.approx(0.1)


# ---------------------------------------------------------------------------- data


def test_batches_are_a_function_of_seed_and_step(text_dir):
    bpe = checkpoint.load_tokenizer()
    first, second = (text.TextData(text_dir, "train", bpe, 16) for _ in range(2))
    second.batch(9, 9, 12)  # what came before does not matter
    np.testing.assert_array_equal(first.batch(1, 5, 12), second.batch(1, 5, 12))
    assert not np.array_equal(first.batch(1, 5, 12), first.batch(1, 6, 12))
    assert not np.array_equal(first.batch(1, 5, 12), first.batch(2, 5, 12))
    np.testing.assert_array_equal(scenes.batch(1, 5, 2), scenes.batch(1, 5, 2))


def test_languages_are_even_whatever_their_size(text_dir, tmp_path):
    folder = tmp_path / "uneven"
    shutil.copytree(text_dir, folder)
    path = folder / "fr" / "plain_train.txt"
    path.write_text(path.read_text("utf-8") * 20, "utf-8")
    data = text.TextData(folder, "train", checkpoint.load_tokenizer(), 16)
    rows = data.batch(1, 0, 12)
    for i, row in enumerate(rows):  # row i is of language i modulo 6, and starts a sentence
        corpus = data.corpora[i % 6]
        starts = [np.array_equal(corpus.window(s, 16), row) for s in range(len(corpus.starts))]
        assert any(starts)


def test_a_recipe_of_one_language_reads_no_other(text_dir, tmp_path):
    job = Job(tiny(languages=("en",)), tmp_path, text_dir=text_dir)
    english = text.Corpus.build(
        text.sentences(text_dir, "en", "train"), checkpoint.load_tokenizer()
    ).ids.tobytes()
    for row in job.task.train.batch(1, 0, 12):
        assert row.tobytes() in english
    assert len(job.task.dev.corpora) == 1


def test_other_sentences_are_named(text_dir, tmp_path, monkeypatch):
    data = text.TextData(text_dir, "dev", checkpoint.load_tokenizer(), 16, ("en", "it"))
    lines = [line.strip() for line in (text_dir / "en/plain_dev.txt").read_text().splitlines()]
    raw = "".join(f"{line}\n" for line in lines).encode()
    assert data.digests["en/plain_dev"] == hashlib.sha256(raw).hexdigest()
    assert text.differing(data.digests) == ["en/plain_dev", "it/plain_dev"]
    known = tmp_path / "text.toml"
    known.write_text(
        "".join(f'[files."{name}"]\nsha256 = "{sha}"\n' for name, sha in data.digests.items())
    )
    monkeypatch.setattr(text, "SOURCES", known)
    assert text.differing(data.digests) == []
    assert text.differing(data.digests | {"it/plain_dev": "0"}) == ["it/plain_dev"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "has no it/plain_train"),
        (lambda path: path.write_text("short"), "'it' do not fill one window of 16"),
        (lambda path: path.write_text("\n\n"), "'it' do not fill one window of 16"),
        (lambda path: path.write_bytes(b"\xff\xfe\xff"), "cannot be read"),
    ],
)
def test_a_corpus_that_cannot_be_used(damage, message, text_dir, tmp_path):
    folder = tmp_path / "text"
    shutil.copytree(text_dir, folder)
    damage(folder / "it" / "plain_train.txt")
    with pytest.raises(text.CorpusError, match=message):
        text.TextData(folder, "train", checkpoint.load_tokenizer(), 16)


def test_text_training_needs_its_folder(tmp_path):
    with pytest.raises(TrainingError, match="--text-dir"):
        Job(tiny(), tmp_path)


def test_a_tokenizer_is_learned_where_there_is_none(tmp_path, text_dir):
    checkpoint.tokenizer_path().unlink()
    tasks.open_tokenizer(text_dir, VOCABULARY)
    assert checkpoint.tokenizer_path().exists()
    with pytest.raises(TrainingError, match=f"{VOCABULARY} tokens, the recipe's model 999"):
        tasks.open_tokenizer(text_dir, 999)


# ---------------------------------------------------------------------------- recipes


@pytest.mark.parametrize("name", recipe.known())
def test_every_recipe_can_be_read(name):
    found = Recipe.load(name, seed=9)
    assert (found.name, found.seed) == (name, 9)
    assert json.dumps(found.to_dict())


@pytest.mark.parametrize("path", sorted(recipe.FOLDER.glob("*.toml")), ids=lambda path: path.stem)
def test_a_recipe_of_its_own_becomes_something(path):
    found = Recipe.load(path.stem)
    assert found.replay or found.ship


def test_only_the_seed_of_a_recipe_is_shipped():
    assert Recipe.load("text-e8").ship
    assert Recipe.load("text-e8", seed=1).ship
    assert not Recipe.load("text-e8", seed=2).ship


def test_members_differ_from_their_family_only_in_what_they_name():
    base, many = (Recipe.load(f"text-{name}") for name in ("e8", "e8-h4"))
    assert many.model == replace(base.model, moe=base.model.moe.matched(4))
    assert replace(many, name="", model=base.model) == replace(base, name="")
    dense = Recipe.load("text-ffn").model
    assert dense == replace(base.model, moe=None, d_ff=base.model.moe.d_ff * base.model.moe.top_k)
    assert Recipe.load("text-e8-k1").model.moe == replace(base.model.moe, top_k=1)
    fine = Recipe.load("text-e16-fine").model.moe
    assert fine == base.model.moe.fine_grained(2)
    flops = Recipe.load("text-flops-h4").model.moe
    assert flops == base.model.moe.matched(4, sizing="flops")


def test_members_of_a_comparison_have_the_same_parameters():
    sizes = {
        name: Recipe.load(f"text-{name}").model.moe.parameters
        for name in ("e8", "e16-fine", "e8-h2", "e8-h4", "e8-h8", "flops-h2", "flops-h4")
    }
    for name, size in sizes.items():
        assert abs(size / sizes["e8"] - 1) < 0.02, (name, sizes)


def test_the_parts_of_mhmoe_are_compared_at_equal_parameters_and_multiplications():
    """Tables 6 and 7: the square layers alone, the cutting alone, and the layers' depth."""
    names = ("e8", "e8-layers", "e8-h4-bare", "e8-h4", "e8-h4-n2", "e8-h4-n3")
    layers = {name: Recipe.load(f"text-{name}").model.moe for name in names}
    shapes = [(c.heads, int(c.projections)) for c in layers.values()]
    assert shapes == [(1, 0), (1, 1), (4, 0), (4, 1), (4, 2), (4, 3)]
    sizes = [c.parameters for c in layers.values()]
    assert max(sizes) / min(sizes) < 1.005
    assert len({c.macs_per_token for c in layers.values() if c.heads == 4}) == 1
    dense, one = (Recipe.load(f"text-{name}").model for name in ("ffn", "ffn-layers"))
    assert (one.moe.experts, one.moe.top_k, one.moe.projections) == (1, 1, 1)
    router = one.moe.d_model * one.blocks
    sizes = [Transformer(shape).counts()["params_total"] for shape in (dense, one)]
    assert sizes[1] - sizes[0] == router


def test_english_is_the_family_of_six_languages_with_one_of_them():
    for name in ("ffn", "e8", "e8-h4"):
        many, one = (Recipe.load(f"{family}-{name}") for family in ("text", "english"))
        assert one.model == many.model
        assert (one.languages, one.steps) == (("en",), 400)


def test_noise_in_training_is_the_same_again_and_follows_the_seed(tmp_path, text_dir):
    noisy = replace(TINY["text-e8"].moe, noise="learned", gate="topk-softmax")
    shape = replace(TINY["text-e8"], moe=noisy)
    whole, again = (
        Job(tiny(model=shape, smooth_load=0.1), tmp_path / folder, text_dir=text_dir)
        for folder in "ab"
    )
    whole.run()
    again.run()
    assert_same_run(whole, again)
    other = Job(tiny(model=shape, seed=1), tmp_path / "c", text_dir=text_dir)
    drawn = other._loss()[0]
    assert other._loss()[0] == drawn
    other._generator = lambda step: None
    assert other._loss()[0] != drawn


def test_a_bias_follows_the_demand_of_every_step(tmp_path, text_dir):
    biased = replace(TINY["text-e8"].moe, bias_update=0.5)
    job = Job(
        tiny(model=replace(TINY["text-e8"], moe=biased), balance=0.0, steps=1),
        tmp_path,
        text_dir=text_dir,
    )
    job.run()
    for share, (_, layer) in zip(job.demand_log[0], job.model.moe_layers, strict=True):
        expected = 0.5 * np.sign(np.float32(share).mean() - np.float32(share))
        np.testing.assert_array_equal(layer.router.bias.numpy(), expected)


def test_the_collapse_pair_differs_in_alpha_only():
    free, held = (Recipe.load(f"collapse-{name}") for name in ("free", "balanced"))
    assert (free.balance, held.balance) == (0, 0.01)
    assert free.to_dict() | {"name": "", "balance": 0} == held.to_dict() | {
        "name": "",
        "balance": 0,
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("steps = ", "cannot be used"),
        ('data = "text"', "cannot be used: 'model'"),
        ('data = "text"\n[model]\nsort = "text"', "unexpected keyword argument 'sort'"),
        (f'data = "text"\nsteps = 1\n{shape_of("text-e8")}', "missing"),
        (
            'data = "text"\nlanguages = ["en", "tlh"]\nsteps = 1\nbatch = 1\n'
            "learning_rate = 1.0\nseed = 1\n" + shape_of("text-e8"),
            r"languages \['tlh'\] are none of de, en, es, fr, it, zh",
        ),
        (
            'data = "image"\nsteps = 1\nbatch = 1\n'
            "learning_rate = 1.0\nseed = 1\n" + shape_of("text-e8"),
            "of kind text cannot learn from image",
        ),
    ],
)
def test_a_recipe_that_cannot_be_used(content, message, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(content)
    with pytest.raises(recipe.RecipeError, match=message):
        Recipe.load(str(path))


def test_an_unknown_recipe_lists_the_known():
    with pytest.raises(recipe.UnknownRecipe, match="'cake'; known are collapse-balanced, "):
        Recipe.load("cake")


# ---------------------------------------------------------------------------- shipping


def finished(tmp_path, text_dir, monkeypatch, name="text-e8-h4", **changes) -> Job:
    job = Job(tiny(name, steps=2, ship=True, **changes), tmp_path / "state", text_dir=text_dir)
    job.run()
    return job


def test_a_shipped_text_model_and_its_card(tmp_path, text_dir, monkeypatch):
    job = finished(tmp_path, text_dir, monkeypatch)
    assert ship.ship(job) == checkpoint.folder() / "text-e8-h4.safetensors"
    model, card = checkpoint.load("text-e8-h4")
    for name, value in job.model.state_dict().items():
        assert torch.equal(model.state_dict()[name], value.half().float())
    assert card["recipe"]["balance"] == 0.01
    assert (card["seed"], card["licence"]) == (1, "CC0 1.0")
    assert card["training"]["tokens"] == 2 * 6 * 16
    assert card["languages"] == list(text.LANGUAGES)
    assert len(card["sentences_sha256"]) == 2 * 6
    assert card["training"]["device"] == "CPU"
    assert [v["step"] for v in card["validation"]] == [1, 2]
    assert card["reproduce"].startswith("python -m mhmoe train text-e8-h4 --seed 1 --text-dir")
    assert str(text_dir) not in json.dumps(card)
    numbers = card["metrics"]
    assert set(numbers["languages"]) == set(text.LANGUAGES)
    assert numbers["tokens"] == 6 * 2 * 15
    # the whole is what one pass over all windows measures on the file as it was written
    windows = job.task.dev.batch(0, 0, 12)
    again = metrics.text_metrics(model, windows, job.task.sizes)
    for name in ("bits_per_byte", "perplexity", "tokens", "bytes"):
        assert numbers[name] == pytest.approx(again[name], rel=1e-5)
    assert [row["layer"] for row in card["load"]] == [0, 1]
    for row in card["load"]:
        assert row["min_share"] <= 1 / 4 <= row["max_share"]
        assert row["cv"] >= 0


def test_a_shipped_image_model(tmp_path, text_dir, monkeypatch):
    ship.ship(finished(tmp_path, text_dir, monkeypatch, "image-e8"))
    card = checkpoint.card("image-e8")
    assert card["metrics"]["images"] == 2
    assert card["metrics"]["relative_error"] == pytest.approx(
        card["metrics"]["masked_error"] / card["metrics"]["baseline_error"]
    )
    assert any("scikit-image" in source["what"] for source in card["data"])
    assert "--text-dir" not in card["reproduce"]


def test_the_load_of_a_card_is_that_of_its_evaluation(tmp_path, text_dir, monkeypatch):
    ship.ship(finished(tmp_path, text_dir, monkeypatch, "text-e8"))
    model, card = checkpoint.load("text-e8")
    data = text.TextData(text_dir, "dev", checkpoint.load_tokenizer(), 16)
    with torch.inference_mode():
        run = model(torch.from_numpy(data.batch(0, 0, 12)).long())
    for row, routing in zip(card["load"], run.routing, strict=True):
        counts = np.bincount(routing.expert.numpy().ravel(), minlength=4)
        assert row["max_share"] == pytest.approx(counts.max() / counts.sum())
        assert row["cv"] == pytest.approx(counts.std() / counts.mean())


def test_a_dense_card_has_no_load(tmp_path, text_dir, monkeypatch):
    ship.ship(finished(tmp_path, text_dir, monkeypatch, "text-ffn"))
    assert checkpoint.card("text-ffn")["load"] == []


def test_a_replay_keeps_what_was_routed_and_no_weights(tmp_path, text_dir, monkeypatch):
    before = sorted(checkpoint.folder().iterdir())
    job = finished(tmp_path, text_dir, monkeypatch, "text-e8", replay=True)
    path = ship.ship(job)
    assert path == checkpoint.runs() / "text-e8.safetensors"
    assert sorted(checkpoint.folder().iterdir()) == before
    arrays = load_file(str(path))
    assert {name: (a.shape, a.dtype) for name, a in arrays.items()} == {
        "loss": ((2,), np.float16),
        "demand": ((2, 2, 4), np.float16),
        "importance": ((2, 2, 4), np.float16),
    }
    np.testing.assert_array_equal(arrays["demand"], np.stack(job.demand_log))
    with safe_open(str(path), "np") as file:
        facts = json.loads(file.metadata()["mhmoe.run"])
    assert facts["recipe"]["replay"]
    assert facts["training"]["steps"] == 2


def test_only_a_finished_run_that_is_meant_to_be_is_shipped(tmp_path, text_dir):
    with pytest.raises(TrainingError, match="step 0 of 6; only a finished one"):
        ship.ship(Job(tiny("text-e8", ship=True), tmp_path, text_dir=text_dir))
    with pytest.raises(TrainingError, match="seed 1 is neither a replay nor shipped"):
        ship.ship(Job(tiny(), tmp_path, text_dir=text_dir))


def test_snapshots_are_shipped_beside_their_model(tmp_path, text_dir, monkeypatch):
    job = finished(tmp_path, text_dir, monkeypatch, snapshots=(1,))
    ship.ship(job)
    card = checkpoint.card("text-e8-h4")
    assert checkpoint.steps(card) == [0, 1, 2]
    (row,) = card["snapshots"]
    assert (row["step"], row["file"]) == (1, "text-e8-h4.000001.safetensors")
    engine.load.cache_clear()
    text = "Der Hund schläft"
    traces = {
        step: engine.trace_text(engine.load("text-e8-h4", step=step), text)[0]
        for step in (None, 0, 1, 2)
    }
    assert traces[None].source.sha256 == traces[2].source.sha256 == card["sha256"]
    assert traces[1].source.sha256 == row["sha256"] != card["sha256"]
    same = Transformer(TINY["text-e8-h4"], job.recipe.seed).half().float().state_dict()
    for name, value in engine.load("text-e8-h4", step=0).model.state_dict().items():
        assert torch.equal(value, same[name]), name
    scores = [traces[step].layers[0].logits for step in (0, 1, 2)]
    assert not np.allclose(scores[0], scores[1])
    assert not np.allclose(scores[1], scores[2])
    with pytest.raises(
        checkpoint.CheckpointError, match="no snapshot of step 7; known are 0, 1, 2"
    ):
        engine.load("text-e8-h4", step=7)
    (checkpoint.folder() / row["file"]).write_bytes(b"damaged")
    with pytest.raises(checkpoint.CheckpointError, match=r"000001\.safetensors are damaged"):
        checkpoint.load("text-e8-h4", step=1)


def test_a_model_that_cannot_be_written(tmp_path, text_dir, monkeypatch):
    job = finished(tmp_path, text_dir, monkeypatch)

    def full(model):
        raise SafetensorError("No space left on device")

    monkeypatch.setattr(checkpoint, "weights", full)
    with pytest.raises(TrainingError, match=r"could not be written .*No space left"):
        ship.ship(job)


def test_a_shipped_model_runs_in_the_engine(tmp_path, text_dir, monkeypatch):
    ship.ship(finished(tmp_path, text_dir, monkeypatch))
    engine.load.cache_clear()
    (trace,) = engine.trace_text(engine.load("text-e8-h4"), "Der Hund")
    assert trace.source.sha256 == checkpoint.card("text-e8-h4")["sha256"]
