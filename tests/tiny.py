"""Tiny models and corpora with the names of the shipped ones, for tests of everything around."""

import json
from dataclasses import replace
from pathlib import Path

from safetensors.torch import save_file

from mhmoe.layers import MoEConfig
from mhmoe.models.config import ModelConfig
from mhmoe.models.transformer import Transformer
from mhmoe.training.recipe import Recipe

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
    "text-ffn": ModelConfig(**TEXT, d_ff=64),
    "text-e8": ModelConfig(**TEXT, moe=SPARSE),
    "text-e8-h4": ModelConfig(**TEXT, moe=SPARSE.matched(4)),
    "image-ffn": ModelConfig(**IMAGE, d_ff=64),
    "image-e8": ModelConfig(**IMAGE, moe=SPARSE),
    "image-e8-h4": ModelConfig(**IMAGE, moe=SPARSE.matched(4)),
}
#: The same pictures with the twelve classes of generated scenes.
CLASSES = replace(TINY["image-e8"], classes=12)

#: The same pictures with captions of at most eight tokens.
PAIRS = replace(TINY["image-e8-h4"], kind="image-text", caption=8, words=VOCABULARY)


def written(folder: Path, name: str, config: ModelConfig, seed: int = 1, **changes) -> None:
    """A finished run of two steps as training leaves it: weights, and a snapshot after the first
    that differs a little."""
    facts = dict(steps=2, batch=4, learning_rate=1e-2, snapshots=(1,), data=config.kind) | changes
    recipe = Recipe(name=name, model=config, seed=seed, **facts)
    run = folder / f"{name}-{seed}"
    for part in ("last", "snapshots"):
        (run / part).mkdir(parents=True)
    (run / "last" / "state.json").write_text(json.dumps({"step": 2, "recipe": recipe.to_dict()}))
    weights = Transformer(config, seed).state_dict()
    save_file({f"model.{k}": v for k, v in weights.items()}, run / "last" / "state.safetensors")
    for step in recipe.snapshots:
        earlier = {name: 0.9 * value for name, value in weights.items()}
        save_file(earlier, run / "snapshots" / f"{step:06}.safetensors")


class Cut(Exception):
    """Stands for a power cut."""


def cut_at(step: int):
    """For a run's reports: the power fails at this step."""

    def report(progress):
        if progress.step >= step:
            raise Cut

    return report


def shape_of(name: str) -> str:
    """A tiny model as a recipe says it, in TOML."""
    shape = {key: value for key, value in TINY[name].to_dict().items() if value is not None}
    moe = shape.pop("moe", None) or {}
    parts = {"model": shape, "model.moe": {k: v for k, v in moe.items() if v is not None}}
    return "\n".join(
        f"[{title}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in part.items())
        for title, part in parts.items()
        if part
    )
