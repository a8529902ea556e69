"""Checkpoints on disk: float16 safetensors, and a card (JSON) with shape, checksum and numbers."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from mhmoe.models.config import ModelConfig
from mhmoe.models.transformer import Transformer

ASSETS = Path(__file__).resolve().parents[2] / "assets"
MODELS = ASSETS / "models"
TOKENIZER = MODELS / "tokenizer.json"


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged or not what its card says."""


def names(folder: Path = MODELS) -> list[str]:
    """Names of all models that have a card."""
    return sorted(p.stem for p in folder.glob("*.json") if p != folder / TOKENIZER.name)


def card(name: str, folder: Path = MODELS) -> dict:
    """The model's card. Raises CheckpointError listing the known names."""
    path = folder / f"{name}.json"
    if name not in names(folder):
        raise CheckpointError(f"Unknown model {name!r}; known are {', '.join(names(folder))}.")
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise CheckpointError(f"The card {path.name} cannot be read ({error}); "
                              "restore it from the repository.") from None


def save(model: Transformer, name: str, facts: dict, folder: Path = MODELS) -> None:
    """Write ``name.safetensors`` (float16) and its card; facts go into the card."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.safetensors"
    save_file({k: v.detach().half().contiguous().cpu() for k, v in model.state_dict().items()},
              str(path))
    content = {"name": name, "config": model.config.to_dict(), "file": path.name,
               "sha256": digest(path), "bytes": path.stat().st_size, **model.counts(), **facts}
    (folder / f"{name}.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n",
                                         "utf-8")


def load(name: str, device: torch.device | str = "cpu",
         folder: Path = MODELS) -> tuple[Transformer, dict]:
    """The model in float32 on the device, and its card. Raises CheckpointError."""
    facts = card(name, folder)
    path = folder / facts["file"]
    if not path.exists():
        raise CheckpointError(f"The weights {path.name} of model {name!r} are missing; "
                              "restore the file from the repository or train the model again.")
    if (found := digest(path)) != facts["sha256"]:
        raise CheckpointError(f"The weights {path.name} are damaged: their SHA-256 starts with "
                              f"{found[:12]}, the card says {facts['sha256'][:12]}. "
                              "Restore the file from the repository.")
    model = Transformer(ModelConfig.from_dict(facts["config"]))
    try:
        model.load_state_dict({k: v.float() for k, v in load_file(str(path)).items()})
    except (RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"The weights {path.name} do not fit their card: {error}") from None
    return model.to(device).eval(), facts


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
