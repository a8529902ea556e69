"""The results file: from models over held-out text to verdicts that no hand has typed."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from entries import entry
from tiny import TEXT, TINY

from mhmoe import cli
from mhmoe.analysis import findings, report, results, verdicts
from mhmoe.layers import MoEConfig, WhatIf
from mhmoe.models import checkpoint, engine, metrics, tokenizer
from mhmoe.models.config import ModelConfig
from mhmoe.models.transformer import Transformer
from mhmoe.training import measure, measure_text, questions, treebanks, wordlists
from mhmoe.training.loop import Job
from mhmoe.training.recipe import Recipe
from mhmoe.training.text import LANGUAGES, Corpus, CorpusError


@pytest.fixture(autouse=True)
def _quick(monkeypatch, models):
    monkeypatch.setenv("MHMOE_DEVICE", "cpu")
    monkeypatch.setattr(questions, "WINDOWS", 3)
    monkeypatch.setattr(measure_text, "FEW", 2)
    monkeypatch.setattr(measure, "REMOVALS", 8)
    monkeypatch.setattr(measure_text, "FACTORS", (0.5, 2.0))
    monkeypatch.setattr(report, "BOOTSTRAP", 50)
    monkeypatch.setattr(report, "SHUFFLES", 10)


@pytest.fixture
def subject():
    return lambda name: measure.subjects([name])[0]


@pytest.fixture
def held(text_dir):
    return questions.held_out(text_dir, TINY["text-e8"])


def asked(text: questions.HeldOut, name: str = "text-e8") -> questions.Question:
    return questions.Question.of(text, TINY[name], 0.5)


def route(text: questions.HeldOut) -> measure.Route:
    return lambda model: measure_text.routed(model, text.windows)


def run_of(name: str, folder, text_dir, seed: int = 1, **changes) -> Job:
    """A trained run of two steps with a snapshot after the first."""
    facts = dict(steps=2, batch=6, learning_rate=1e-2, seed=seed, warmup=1, snapshots=(1,))
    facts |= dict(name=name, model=TINY[name], data="text") | changes
    job = Job(Recipe(**facts), folder, text_dir=text_dir)
    job.run()
    return job


# ---------------------------------------------------------------------------- the text


def test_windows_share_no_token_and_begin_at_sentences():
    corpus = Corpus(np.arange(30), np.array([0, 3, 8, 9, 14, 20, 27]))
    # 0..4; 3 is taken, 8..12; 14..18; 20..24; 27 lacks its end
    assert corpus.apart(5)[:, 0].tolist() == [0, 8, 14, 20]
    assert corpus.apart(5)[1].tolist() == [8, 9, 10, 11, 12]


def test_every_language_has_as_many_windows(held):
    assert held.windows.shape == (18, 16)
    assert (np.bincount(held.language) == 3).all()
    assert held.language[held.first(2)].tolist() == [i for i in range(6) for _ in range(2)]
    assert held.facts["tokens"] == 18 * 16
    other = replace(held, windows=held.windows + 1)
    assert other.facts["sha256"] != held.facts["sha256"]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (",", "punctuation"),
        (" «", "punctuation"),
        ("42", "number"),
        ("\n", "line break"),
        (" House", "start of word"),
        ("ouse", "rest of word"),
        ("天", "rest of word"),
        ("\\xe5", "part of a character"),
    ],
)
def test_tokens_have_the_class_that_anybody_sees(text, name):
    assert questions.CLASSES[questions.token_class(text)] == name


@pytest.mark.parametrize("text", [" ", "l'", "a\n", ""])
def test_tokens_of_several_kinds_have_none(text):
    assert questions.token_class(text) == -1


def test_another_tokenizer_is_one_sentence(text_dir):
    with pytest.raises(measure.MeasureError, match="has 320 tokens, the model 99; set MHMOE"):
        questions.held_out(text_dir, replace(TINY["text-e8"], vocabulary=99))


# ---------------------------------------------------------------------------- the runs


@pytest.mark.parametrize("name", ["text-ffn", "text-e8-h4"])
def test_quality_is_that_of_the_evaluation(name, subject, held):
    model = subject(name).model()
    next_one = asked(held, name)
    found = next_one.quality(next_one.nats(model))
    expected = metrics.text_metrics(model, held.windows, held.sizes)
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, rel=1e-5), key
    low, high = found["interval"]
    assert low < found["bits_per_byte"] < high
    french = metrics.text_metrics(model, held.windows[held.language == 3], held.sizes)
    assert found["languages"]["fr"]["perplexity"] == pytest.approx(french["perplexity"], rel=1e-5)


def test_a_layers_trace_is_that_of_every_window_end_to_end(subject, held):
    model = subject("text-e8-h4").model()
    for i, layer in enumerate(measure_text.routed(model, held.windows)):
        assert layer.sub_tokens == held.windows.size * 4
        assert layer.demand.sum() == layer.sub_tokens * 2
        alone = measure_text.routed(model, held.windows[5:6])[i]
        assert (layer.expert[5 * 64 : 6 * 64] == alone.expert).all()


def test_removing_an_expert_is_what_the_layer_does_without_it(subject, held):
    model = subject("text-e8").model()
    found = measure_text.removal(model, asked(held))
    few = asked(held).part(2)
    plain = few.nats(model).sum()
    off = few.nats(model, WhatIf(experts_off=(3,)), 1).sum()
    size = held.sizes[few.text.windows[:, 1:]].sum()
    assert found["layers"][1][3]["rise"] == pytest.approx((off - plain) / np.log(2) / size)
    assert found["tokens"] == 12 * 16


def test_an_expert_that_computes_nothing_is_not_missed_and_one_that_works_is(subject, held):
    model = subject("text-e8").model()
    experts = model.moe_layers[0][1].experts
    with torch.no_grad():  # the others answer alike, so that a substitute changes nothing
        experts.w_in.zero_()
    silent = measure_text.removal(model, asked(held))["layers"][0]
    assert [row["rise"] for row in silent] == pytest.approx([0] * 4, abs=1e-6)
    with torch.no_grad():
        experts.w_in[2].normal_(generator=torch.Generator().manual_seed(0))
        experts.w_out[2].normal_(generator=torch.Generator().manual_seed(1))
    loud = [abs(row["rise"]) for row in measure_text.removal(model, asked(held))["layers"][0]]
    assert loud[2] > 10 * max(loud[0], 1e-6)  # some of the others' second choice is the loud one


def test_room_for_everybody_costs_nothing_and_less_drops_more(subject, held):
    model = subject("text-e8").model()
    tight, wide = measure_text.capacity(model, asked(held))["factors"]
    assert tight["dropped"] > wide["dropped"] == pytest.approx(0, abs=0.2)
    assert tight["dropped"] >= 0.5  # half of the places that all choices need
    assert tight["rise"] != 0


def test_a_model_without_another_expert_loses_none(held):
    config = ModelConfig(**TEXT, moe=MoEConfig(d_model=16, d_ff=8, experts=2, top_k=2))
    assert measure_text.removal(Transformer(config).eval(), asked(held))["layers"] == []


# ---------------------------------------------------------------------------- entries


def test_an_entry_is_the_same_twice_and_its_numbers_are_numbers(subject, held):
    first, second = (measure_text.measure(subject("text-e8-h4"), held) for _ in range(2))
    text = json.dumps(results.rounded(first), allow_nan=False)
    assert text == json.dumps(results.rounded(second))
    assert len(first["balance"]) == len(first["diversity"]) == 2
    assert set(first["language"][0]["choices"]) == set(LANGUAGES)


def test_a_dense_model_has_quality_and_no_routing(subject, held):
    found = measure_text.measure(subject("text-ffn"), held)
    assert found["quality"]["bits_per_byte"] > 0
    assert "balance" not in found
    assert findings.derive({"text-ffn": results.rounded(found)}) == []


def test_a_single_expert_is_no_choice(held, models):
    one = replace(TINY["text-e8"].moe, experts=1, top_k=1).matched(heads=1, projections=1)
    checkpoint.save(Transformer(ModelConfig(**TEXT, moe=one), seed=3), "text-layers", {})
    (subject,) = measure.subjects(["text-layers"])
    found = measure_text.measure(subject, held)
    assert set(found) == {"command", "facts", "text", "quality", "probes"}
    assert found["facts"]["projections"] == found["facts"]["experts"] == 1
    assert findings.derive({"text-layers": results.rounded(found)}) == []


def test_a_run_is_measured_at_its_end_and_its_snapshots(tmp_path, text_dir, held):
    job = run_of("text-e8-h4", tmp_path, text_dir)
    (subject,) = measure.subjects([], tmp_path)
    assert subject.name == "text-e8-h4-1"
    assert subject.command == "python -m mhmoe measure text-e8-h4-1 --runs RUNS --text-dir TEXT"
    for name, value in subject.model().state_dict().items():
        assert torch.equal(value, job.model.state_dict()[name].half().float()), name
    found = measure_text.measure(subject, held)
    (first,) = found["over_time"]["layers"][0]
    assert first["step"] == 1
    low, high = first["changed_next"]["interval"]
    assert 0 <= low <= first["changed_next"]["value"] <= high <= 1
    assert first["saturation"]["value"] > first["saturation"]["demand"]  # one step changes little
    rows = {row["key"]: row for row in findings.derive({subject.name: found})}
    assert rows["saturation"]["claim"].endswith("at 50% of training")
    assert rows["fluctuation"]["interval"][0] >= 0
    changed = np.mean([layer[0]["changed_next"]["value"] for layer in found["over_time"]["layers"]])
    assert rows["fluctuation"]["ours"] == pytest.approx(changed)
    assert rows["collapse"]["models"] == ["text-e8-h4-1"]


def test_snapshots_of_the_end_are_saturated(tmp_path, text_dir, held):
    run_of("text-e8", tmp_path, text_dir)
    (subject,) = measure.subjects(["text-e8"], tmp_path)
    again = replace(subject, snapshots=((1, subject.weights),))
    then = measure.moments(again, route(held))
    for layer in measure.over_time(again, then, held.language)["layers"]:
        assert layer[0]["saturation"]["value"] == 1
        assert layer[0]["changed_next"]["value"] == 0
        assert layer[0]["changed_next"]["demand"] > 0.3


def test_a_run_is_compared_with_its_other_seeds(tmp_path, text_dir, held):
    for seed in (1, 2):
        run_of("text-e8-h4", tmp_path, text_dir, seed=seed)
    run_of("text-e8", tmp_path, text_dir, seed=2)
    first, second, alone = (
        measure.subjects([name], tmp_path)[0]
        for name in ("text-e8-h4-1", "text-e8-h4-2", "text-e8-2")
    )
    assert [s.name for s in first.seeds] == ["text-e8-h4-2"]
    assert [s.name for s in second.seeds] == ["text-e8-h4-1"]
    assert alone.seeds == ()
    (rows,) = measure.other_seeds(first, route(held), held.language)["runs"].values()
    assert len(rows) == 2
    assert all(0 < row["value"] < 0.9 for row in rows)
    assert all(row["interval"][0] < row["value"] < row["interval"][1] for row in rows)
    itself = replace(first, seeds=(first,))
    (same,) = measure.other_seeds(itself, route(held), held.language)["runs"].values()
    assert [row["value"] for row in same] == pytest.approx([1, 1])


def test_seeds_are_not_compared_without_scipy(tmp_path, text_dir, held, monkeypatch):
    for seed in (1, 2):
        run_of("text-e8", tmp_path, text_dir, seed=seed)
    subject, _ = measure.subjects(["text-e8"], tmp_path)
    monkeypatch.setattr(measure, "find_spec", lambda name: None)
    with pytest.raises(measure.MeasureError, match="scipy, which is not installed: pip install"):
        measure.other_seeds(subject, route(held), held.language)


def test_seeds_of_other_text_are_no_seeds_of_the_same_run(tmp_path, text_dir):
    run_of("text-e8", tmp_path, text_dir)
    run_of("text-e8", tmp_path, text_dir, seed=2, languages=("en",))
    found = measure.subjects([], tmp_path)
    assert [s.name for s in found] == ["text-e8-1", "text-e8-2"]
    assert [s.languages for s in found] == [LANGUAGES, ("en",)]
    assert [s.seeds for s in found] == [(), ()]


def test_a_run_knows_the_weights_of_its_losses(tmp_path, text_dir):
    run_of("text-e8", tmp_path, text_dir, balance=0.25, z=0.5)
    (subject,) = measure.subjects([], tmp_path)
    expected = {"balance": 0.25, "importance": 0.0, "smooth_load": 0.0, "z": 0.5}
    assert subject.facts["losses"] == expected


def test_unfinished_runs_are_left_out_and_unknown_names_are_answered(tmp_path, text_dir):
    run_of("text-e8", tmp_path, text_dir)
    run_of("text-e8", tmp_path, text_dir, seed=2)
    run_of("text-ffn", tmp_path, text_dir)
    path = tmp_path / "text-ffn-1" / "last" / "state.json"
    state = json.loads(path.read_text())
    path.write_text(json.dumps(state | {"step": 1}))
    both = [s.name for s in measure.subjects(["text-e8"], tmp_path)]
    assert both == ["text-e8-1", "text-e8-2"]
    with pytest.raises(measure.UnknownModel, match=r"'text-ffn'; .* text-e8-1, text-e8-2"):
        measure.subjects(["text-e8-2", "text-ffn"], tmp_path)
    with pytest.raises(measure.MeasureError, match="nothing to measure"):
        measure.subjects([], tmp_path / "text-e8-1")


# ---------------------------------------------------------------------------- findings


def test_findings_of_measured_models_are_complete(subject, held):
    models = {n: measure_text.measure(subject(n), held) for n in ("text-e8", "text-e8-h4")}
    content = results.merged({"models": {}}, models)
    keys = {(row["key"], *row["models"]) for row in content["findings"]}
    assert ("distinct-experts", "text-e8-h4") in keys
    assert ("unused-experts", "text-e8") in keys
    assert ("collapse", "text-e8") in keys
    assert ("activation-tokens", "text-e8", "text-e8-h4") in keys
    for row in content["findings"]:
        words = (verdicts.REPRODUCED, verdicts.NOT_REPRODUCED, verdicts.NOT_TESTABLE)
        assert row["verdict"] in words
        assert row["claim"]
        assert row["paper"]
        assert row["tokens"] == 288
        assert row["key"] in results.sentence(row)


def test_a_router_that_knows_one_answer_has_no_rc_and_no_finding_of_it(subject, held, monkeypatch):
    model = subject("text-e8").model()
    with torch.no_grad():
        for _, layer in model.moe_layers:
            layer.router.weight.zero_()
    monkeypatch.setattr(measure.Subject, "model", lambda self, device: model)
    found = measure_text.measure(subject("text-e8"), held)
    content = results.merged({"models": {}}, {"text-e8": found})
    assert [layer["value"] for layer in content["models"]["text-e8"]["collapse"]] == [None, None]
    keys = {row["key"] for row in content["findings"]}
    assert "unused-experts" in keys
    assert "collapse" not in keys
    results.dumped(content)


def test_by_counting_alone_no_head_is_more_active(subject, held):
    """Untrained routers are near even: dividing by tokens then shows 'activation', and no more."""
    models = {n: measure_text.measure(subject(n), held) for n in ("text-e8", "text-e8-h4")}
    even = copy.deepcopy(models)
    for one in even.values():
        for size in ("tokens", "sub_tokens"):
            curve = one["activation"][size]
            curve |= {name: curve["chance"] for name in ("curve", "low", "high")}
    rows = {row["key"]: row for row in results.merged({"models": {}}, even)["findings"]}
    assert rows["activation-tokens"]["ours"] == 1
    assert rows["activation-tokens"]["verdict"] == "not reproduced"


# ---------------------------------------------------------------------------- the file


def test_a_model_is_replaced_and_the_others_stay(tmp_path):
    path = tmp_path / "deep" / "r.json"
    first = results.merged(
        results.load(path), {"b": entry("b", 1, [1.0] * 4), "a": entry("a", 1, [2.0] * 4)}
    )
    results.save(first, path)
    again = results.merged(results.load(path), {"b": entry("b", 1, [3.0] * 4)})
    assert list(again["models"]) == ["a", "b"]
    assert again["models"]["a"] == results.load(path)["models"]["a"]
    assert again["models"]["b"]["quality"]["bits_per_byte"] == pytest.approx(0.3)


def test_the_file_has_a_list_of_numbers_on_one_line_and_reads_back(tmp_path):
    content = {"schema": 1, "models": {}, "findings": [], "x": [[1, 2.5], [-3e-7]], "y": ["a, b"]}
    text = results.dumped(content)
    assert json.loads(text) == content
    assert "  [1, 2.5]," in text


def test_six_digits_and_no_number_that_is_none():
    assert results.rounded({"a": [1.23456789, float("nan")], "b": (1,)}) == {
        "a": [1.23457, None],
        "b": [1],
    }


@pytest.mark.parametrize("text", ["{}", "[1]", "no json", '{"schema": 7}'])
def test_another_file_is_not_overwritten(text, tmp_path, text_dir, capsys):
    path = tmp_path / "r.json"
    path.write_text(text)
    code = cli.main(["measure", "text-e8", "--text-dir", str(text_dir), "--out", str(path)])
    assert code == 1
    assert "r.json" in capsys.readouterr().err
    assert path.read_text() == text


def test_the_command_writes_what_it_says(tmp_path, text_dir, capsys):
    path = tmp_path / "r.json"
    asked = ["measure", "text-e8", "text-ffn", "--text-dir", str(text_dir), "--out", str(path)]
    assert cli.main(asked) == 0
    out = capsys.readouterr().out
    content = results.load(path)
    assert list(content["models"]) == ["text-e8", "text-ffn"]
    assert f"unused-experts: {content['findings'][-1]['verdict']}" in out
    before = path.read_bytes()
    assert cli.main(asked) == 0
    assert path.read_bytes() == before


def test_the_command_answers_an_unknown_name(tmp_path, text_dir, capsys):
    asked = ["measure", "text-moe", "--text-dir", str(text_dir), "--out", str(tmp_path / "r")]
    assert cli.main(asked) == 2
    assert "text-e8, text-e8-h4, text-ffn" in capsys.readouterr().err


def test_shipped_models_are_read_as_the_engine_reads_them(subject):
    ours = subject("text-e8").model().state_dict()
    for name, value in engine.load("text-e8").model.state_dict().items():
        assert torch.equal(ours[name], value), name


def test_information_has_an_interval_around_it(subject, held):
    layers = measure_text.routed(subject("text-e8").model(), held.windows)
    for r in report.opened(layers, held.language):
        found = report.of_windows(r, LANGUAGES)
        assert found["interval"][0] <= found["bits"] <= found["interval"][1]


# ---------------------------------------------------------------------------- treebanks

SENTENCE = (
    "# text = L'ora della cena.\n"
    "1\tL'\til\tDET\t_\t_\t2\tdet\t_\tSpaceAfter=No\n"
    "2\tora\tora\tNOUN\t_\t_\t0\troot\t_\t_\n"
    "3-4\tdella\t_\t_\t_\t_\t_\t_\t_\t_\n"
    "3\tdi\tdi\tADP\t_\t_\t5\tcase\t_\t_\n"
    "4\tla\til\tDET\t_\t_\t5\tdet\t_\t_\n"
    "5\tcena\tcena\tNOUN\t_\t_\t2\tnmod\t_\tSpaceAfter=No\n"
    "6\t.\t.\tPUNCT\t_\t_\t2\tpunct\t_\t_\n"
    "\n"
)


@pytest.fixture
def trees(tmp_path):
    folder = tmp_path / "trees"
    folder.mkdir()
    for language in LANGUAGES:
        name = "zh_hans" if language == "zh" else language
        (folder / f"{name}.conllu").write_text(SENTENCE * 20, "utf-8")
    return folder


def test_surface_tokens_and_their_classes_are_read(trees):
    first, *rest = treebanks.sentences(trees / "it.conllu")
    assert len(rest) == 19
    noun, mark = treebanks.CLASSES.index("NOUN"), treebanks.CLASSES.index("PUNCT")
    assert [form for form, _, _ in first] == ["L'", "ora", "della", "cena", "."]
    assert [label for _, label, _ in first][1:] == [noun, -1, noun, mark]
    assert [space for _, _, space in first] == [False, True, True, False, True]


def test_every_token_has_the_class_of_its_word(trees):
    bpe = checkpoint.load_tokenizer()
    sentence = next(treebanks.sentences(trees / "it.conllu"))
    ids, labels = treebanks.labelled(sentence, bpe)
    assert bpe.decode(ids) == "L'ora della cena. \n"
    told: dict[int, str] = {}
    for i, label in zip(ids, labels, strict=True):
        told[label] = told.get(label, "") + tokenizer.spell(bpe, i)
    noun, mark = treebanks.CLASSES.index("NOUN"), treebanks.CLASSES.index("PUNCT")
    assert told[noun] == "ora cena"
    assert told[mark] == "."
    assert told[treebanks.CLASSES.index("DET")] == "L'"
    assert told[-1].split() == ["della"]


def test_treebanks_add_word_classes_and_a_finding(trees, tmp_path, text_dir, capsys):
    path = tmp_path / "r.json"
    asked = ["measure", "text-e8", "--text-dir", text_dir, "--treebanks", trees, "--out", path]
    assert cli.main([str(part) for part in asked]) == 0
    content = results.load(path)
    found = content["models"]["text-e8"]
    assert set(found["word_class"][0]["choices"]) == set(treebanks.CLASSES)
    assert found["probes"]["word_class"]["tokens"] > 0
    assert found["treebanks"]["windows"] == 18
    assert found["command"].endswith("--text-dir TEXT --treebanks TREEBANKS")
    assert "no-split-word-class" in {row["key"] for row in content["findings"]}
    (trees / "fr.conllu").unlink()
    assert cli.main([str(part) for part in asked]) == 1
    assert "has no fr.conllu" in capsys.readouterr().err


def test_a_broken_treebank_is_one_sentence(trees):
    (trees / "it.conllu").write_text("x\tL'\til\tDET\t_\t_\t2\tdet\t_\t_\n")
    with pytest.raises(CorpusError, match=r"it\.conllu cannot be read as CoNLL-U"):
        list(treebanks.sentences(trees / "it.conllu"))


# ---------------------------------------------------------------------------- words

LISTS = {
    "same_spelling_pairs.tsv": "class\tform\tlang_a\tlang_b\n"
    "false_friend\tder\ten\tde\ncognate\tpark\ten\tde\n",
    "en_sense_counts.tsv": "lemma\tsenses\nover\t9\nfox\t5\nthe\t1\nby\t2\ndog\t3\n",
}


@pytest.fixture
def lists(tmp_path):
    folder = tmp_path / "lists"
    folder.mkdir()
    for name, text in LISTS.items():
        (folder / name).write_text(text, "utf-8")
    return folder


def test_word_lists_are_read(lists):
    false, listed = wordlists.same_spelling(lists)
    assert false == {("en", "der"), ("de", "der")}
    assert listed - false == {("en", "park"), ("de", "park")}
    assert wordlists.by_senses(lists) == ({"over", "fox"}, {"the", "by"})
    (lists / "en_sense_counts.tsv").write_text("word\tsenses\na\t1\n")
    with pytest.raises(CorpusError, match="lacks the columns lemma"):
        wordlists.by_senses(lists)


def test_words_of_a_window_are_whole(held):
    bpe = checkpoint.load_tokenizer()
    ids = bpe.encode("\n12 The fox, don't jumps").ids
    kinds = [questions.token_class(tokenizer.spell(bpe, i)) for i in ids]
    text = replace(held, windows=np.array([ids]), kind=np.array([kinds]), language=np.array([1]))
    found = list(measure_text.occurrences(text))
    assert [form for _, form, _ in found] == ["the", "fox", "don", "t"]  # jumps may be cut
    for _, form, at in found:
        assert bpe.decode([ids[i] for i in at]).strip().lower() == form


def test_words_of_two_meanings_become_findings(lists, tmp_path, text_dir, capsys):
    path = tmp_path / "r.json"
    asked = ["measure", "text-e8-h4", "--text-dir", text_dir, "--words", lists, "--out", path]
    assert cli.main([str(part) for part in asked]) == 0
    content = results.load(path)
    rows = {row["key"]: row for row in content["findings"]}
    meanings = content["models"]["text-e8-h4"]["meanings"]
    for name in ("false_friends", "polysemous"):
        row = rows[f"meanings-{name.replace('_', '-')}"]
        assert (row["verdict"] == verdicts.NOT_TESTABLE) == (meanings[name] is None)
    (lists / "same_spelling_pairs.tsv").unlink()
    assert cli.main([str(part) for part in asked]) == 1
    assert "has no same_spelling_pairs.tsv" in capsys.readouterr().err
