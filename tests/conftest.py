"""What all tests share: strictness, and a folder of tiny models that stands in for the shipped."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from tiny import SENTENCES, TINY, VOCABULARY

from mhmoe.models import checkpoint, engine, tokenizer
from mhmoe.models.transformer import Transformer

torch.set_num_threads(1)  # sums in one order, and the machine is left to others


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
