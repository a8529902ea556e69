"""What all tests share: strictness, and a folder of tiny models that stands in for the shipped."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from mhmoe.layers import MoEConfig
from mhmoe.models import checkpoint, engine, tokenizer
from mhmoe.models.config import ModelConfig
from mhmoe.models.transformer import Transformer

torch.set_num_threads(1)  # sums in one order, and the machine is left to others

SENTENCES = {
    "de": ["Der Hund schläft unter dem alten Tisch.", "Morgen fahren wir über die Brücke."],
    "en": ["The quick brown fox jumps over the dog.", "She sells sea shells by the shore."],
    "es": ["El niño come una manzana verde.", "Mañana vamos a la playa con la abuela."],
    "fr": ["Le garçon mange une pomme à midi.", "Demain nous irons à la bibliothèque."],
    "it": ["Il gatto dorme sotto la finestra.", "Domani andiamo al mare con gli amici."],
    "zh": ["今天天气很好，我们去公园散步。", "小猫在窗户下面睡觉。"],
}
VOCABULARY = 320

SPARSE = MoEConfig(d_model=16, d_ff=32, experts=4, top_k=2, activation="relu")
TEXT = dict(kind="text", d_model=16, blocks=2, attention_heads=2, vocabulary=VOCABULARY, context=16)
#: 4 x 4 patches of 32 x 32 pixels: as large as the pictures that training generates.
IMAGE = dict(
    kind="image",
    d_model=16,
    blocks=2,
    attention_heads=2,
    vocabulary=32 * 32 * 3,
    context=16,
    patch=32,
)
TINY = {
    "text-dense": ModelConfig(**TEXT, d_ff=64),
    "text-smoe": ModelConfig(**TEXT, moe=SPARSE),
    "text-mhmoe": ModelConfig(**TEXT, moe=SPARSE.matched(4)),
    "image-dense": ModelConfig(**IMAGE, d_ff=64),
    "image-smoe": ModelConfig(**IMAGE, moe=SPARSE),
    "image-mhmoe": ModelConfig(**IMAGE, moe=SPARSE.matched(4)),
}


@pytest.fixture(autouse=True)
def strict():
    """Deterministic algorithms for every test, whatever the one before it left behind."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="session")
def text_dir(tmp_path_factory) -> Path:
    """Six small corpora as training wants them; one sentence is repeated with its number."""
    folder = tmp_path_factory.mktemp("text")
    for language, lines in SENTENCES.items():
        (folder / language).mkdir()
        for split, count in (("train", 20), ("dev", 8)):
            text = "\n".join(f"{i} {line}" for i in range(count) for line in lines)
            (folder / language / f"plain_{split}.txt").write_text(text, "utf-8")
    return folder


@pytest.fixture(scope="session")
def _tiny_models(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("assets") / "models"
    lines = [line for language in SENTENCES.values() for line in language]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MHMOE_MODELS", str(folder))
        for name, config in TINY.items():
            checkpoint.save(Transformer(config, seed=3), name, {"metrics": {}})
        tokenizer.train(lines, VOCABULARY).save(str(checkpoint.tokenizer_path()))
    return folder


@pytest.fixture
def models(_tiny_models, tmp_path, monkeypatch) -> Path:
    """A folder of tiny untrained models with the names of the shipped, in use and writable."""
    folder = tmp_path / "assets" / "models"
    shutil.copytree(_tiny_models, folder)
    monkeypatch.setenv("MHMOE_MODELS", str(folder))
    engine.load.cache_clear()
    engine.variant.cache_clear()
    yield folder
    engine.load.cache_clear()
    engine.variant.cache_clear()
