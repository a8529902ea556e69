"""Recipes: small TOML files that say everything a training run depends on."""

from __future__ import annotations

import tomllib
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from mhmoe.models.config import SHIPPED, ModelConfig

FOLDER = Path(__file__).parent / "recipes"


class RecipeError(ValueError):
    """A recipe that cannot be used."""


class UnknownRecipe(RecipeError):
    """A recipe that does not exist."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One run. ``model`` is the shape; ``balance``, ``importance``, ``z`` weigh the losses.

    snapshots  steps after which the weights are kept as they are; a run begins at weights that
               the seed alone gives, and ends at those of the checkpoint
    """

    name: str
    model: ModelConfig
    data: str
    steps: int
    batch: int
    learning_rate: float
    seed: int
    balance: float = 0.0
    importance: float = 0.0
    z: float = 0.0
    warmup: int = 100
    weight_decay: float = 0.01
    clip: float = 1.0
    mask_ratio: float = 0.5
    replay: bool = False
    snapshots: tuple[int, ...] = ()

    @classmethod
    def load(cls, name: str, seed: int | None = None) -> Recipe:
        """A shipped recipe by name, or a TOML file by path. Raises RecipeError."""
        path = Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
        if not path.exists():
            raise UnknownRecipe(f"Unknown recipe {name!r}; known are {', '.join(known())}.")
        try:
            data = tomllib.loads(path.read_text("utf-8"))
            shape = data.pop("model")
            model = SHIPPED[shape] if isinstance(shape, str) else ModelConfig.from_dict(shape)
            data["snapshots"] = tuple(data.get("snapshots", ()))
            recipe = cls(name=path.stem, model=model, **data)
            if recipe.data != model.kind:
                raise ValueError(f"a model of kind {model.kind} cannot learn from {recipe.data}")
            if late := [step for step in recipe.snapshots if not 0 < step < recipe.steps]:
                raise ValueError(f"snapshots at {late} do not lie between 0 and {recipe.steps}")
        except (OSError, TypeError, KeyError, ValueError) as error:
            raise RecipeError(f"The recipe {path.name} cannot be used: {error}") from None
        return recipe if seed is None else replace(recipe, seed=seed)

    def to_dict(self) -> dict:
        return asdict(self)


def known() -> list[str]:
    return sorted(p.stem for p in FOLDER.glob("*.toml"))
