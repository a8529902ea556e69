"""Checkpoints on disk: float16 safetensors, and a card (JSON) with shape, checksum and numbers.

Beside a model may lie snapshots of its training, one file for each step that the card names.

They lie in one folder, together with the tokenizer: the one that is shipped, or the one that
the environment variable MHMOE_MODELS names.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as packed
from tokenizers import Tokenizer

from mhmoe.models import tokenizer
from mhmoe.models.config import ModelConfig
from mhmoe.models.transformer import Transformer

ASSETS = Path(__file__).resolve().parents[2] / "assets"
#: What every card says, beside the facts of its training.
CARD = ("name", "config", "file", "sha256", "params_total", "params_active", "macs_per_token")


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged or not what its card says.

    ``str()`` is the English sentence; ``code`` and ``numbers`` let any language say it.
    """

    def __init__(self, message: str, code: str = "unreadable", **numbers: str):
        super().__init__(message)
        self.code, self.numbers = code, numbers


def folder() -> Path:
    """Where the models are."""
    return Path(os.environ.get("MHMOE_MODELS") or ASSETS / "models")


def tokenizer_path() -> Path:
    return folder() / "tokenizer.json"


def load_tokenizer() -> Tokenizer:
    """The tokenizer of all text models. Raises CheckpointError."""
    path = tokenizer_path()
    try:
        return tokenizer.load(path)
    except Exception as error:  # the library raises nothing more specific
        raise CheckpointError(
            f"The tokenizer {path.name} cannot be read ({error}); restore it from the repository.",
            file=path.name,
        ) from None


def runs() -> Path:
    """Where the replays of training runs are: beside the models."""
    return folder().parent / "runs"


def names() -> list[str]:
    """Names of all models that have a card."""
    return sorted(p.stem for p in folder().glob("*.json") if p != tokenizer_path())


def unknown(name: str) -> str:
    """The sentence about a model that does not exist."""
    return f"Unknown model {name!r}; known are {', '.join(names()) or 'none'}."


def unknown_step(facts: dict, step: int) -> str:
    """The sentence about a snapshot that does not exist."""
    known = ", ".join(map(str, steps(facts))) or "none"
    return f"The model {facts['name']!r} has no snapshot of step {step}; known are {known}."


def card(name: str) -> dict:
    """The model's card. Raises CheckpointError listing the known names."""
    if name not in names():
        raise CheckpointError(unknown(name), "unknown", name=name, known=", ".join(names()) or "–")
    path = folder() / f"{name}.json"
    try:
        facts = json.loads(path.read_text("utf-8"))
        missing = [key for key in CARD if key not in facts]
        if missing:
            raise ValueError(f"it lacks {', '.join(missing)}")
        ModelConfig.from_dict(facts["config"])
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"The card {path.name} cannot be read ({error}); restore it from the repository.",
            file=path.name,
        ) from None
    return facts


def steps(facts: dict) -> list[int]:
    """The steps of a card's model that can be loaded, from the untrained start to the end."""
    if "recipe" not in facts:
        return []
    taken = [row["step"] for row in facts.get("snapshots", [])]
    return [0, *taken, facts["recipe"]["steps"]]


def save(
    model: Transformer, name: str, facts: dict, snapshots: Mapping[int, Path] | None = None
) -> None:
    """Write ``name.safetensors`` (float16) and its card; facts go into the card. ``snapshots``:
    files of a run by their steps, float16 as well, which are copied."""
    folder().mkdir(parents=True, exist_ok=True)
    path = folder() / f"{name}.safetensors"
    path.write_bytes(weights(model))
    taken = []
    for step, source in sorted((snapshots or {}).items()):
        copy = folder() / f"{name}.{step:06d}.safetensors"
        shutil.copyfile(source, copy)
        taken.append({"step": step, "file": copy.name, "sha256": digest(copy)})
    content = {
        "name": name,
        "config": model.config.to_dict(),
        "file": path.name,
        "sha256": digest(path),
        "bytes": path.stat().st_size,
        **model.counts(),
        **facts,
        **({"snapshots": taken} if taken else {}),
    }
    (folder() / f"{name}.json").write_text(
        json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8"
    )


def weights(model: Transformer) -> bytes:
    """What a checkpoint's file holds: the weights in float16."""
    return packed({k: v.detach().half().contiguous().cpu() for k, v in model.state_dict().items()})


def load(
    name: str, device: torch.device | str = "cpu", step: int | None = None
) -> tuple[Transformer, dict]:
    """The model in float32 on the device, and its card; with ``step`` as it was after that step of
    its training, and the checksum of that file. Raises CheckpointError."""
    facts = card(name)
    if step is not None and step not in steps(facts):
        raise CheckpointError(unknown_step(facts, step))
    config = ModelConfig.from_dict(facts["config"])
    if step == 0:  # the seed alone gives it, in the precision of all others
        model = Transformer(config, facts["seed"]).half().float()
        return model.to(device).eval(), facts | {"sha256": ""}
    for row in facts.get("snapshots", []):
        if row["step"] == step:
            facts = facts | row
    model = Transformer(config)
    _fill(model, name, facts)
    return model.to(device).eval(), facts


def _fill(model: Transformer, name: str, facts: dict) -> None:
    """Read the file that the facts name into the model. Raises CheckpointError."""
    path = folder() / facts["file"]
    if not path.exists():
        raise CheckpointError(
            f"The weights {path.name} of model {name!r} are missing; "
            "restore the file from the repository or train the model again.",
            "missing",
            file=path.name,
        )
    if (found := digest(path)) != facts["sha256"]:
        raise CheckpointError(
            f"The weights {path.name} are damaged: their SHA-256 starts with "
            f"{found[:12]}, the card says {facts['sha256'][:12]}. "
            "Restore the file from the repository.",
            "damaged",
            file=path.name,
            found=found[:12],
            expected=facts["sha256"][:12],
        )
    try:
        model.load_state_dict({k: v.float() for k, v in load_file(str(path)).items()})
    except (RuntimeError, SafetensorError) as error:
        raise CheckpointError(
            f"The weights {path.name} do not fit their card: {error}", file=path.name
        ) from None


def digest(file: Path | bytes) -> str:
    """SHA-256 of a file, or of what one would hold."""
    content = file if isinstance(file, bytes) else file.read_bytes()
    return hashlib.sha256(content).hexdigest()
