"""Recipes: small TOML files that say everything a training run depends on.

A file ``recipes/NAME.toml`` is one run. A file ``recipes/families/*.toml`` is a comparison: what
all of its members share, and under ``[members.NAME]`` what each changes. A member may name

    model = { ... }    values in place of the family's, at any depth
    matched = { heads = 4, sizing = "parameters" }   arguments of ``MoEConfig.matched``
    fine_grained = { parts = 2 }                     arguments of ``MoEConfig.fine_grained``

and one with ``model.d_ff`` is dense.
"""

from __future__ import annotations

import tomllib
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from mhmoe.layers import MoEConfig
from mhmoe.models.config import ModelConfig
from mhmoe.training.text import LANGUAGES

FOLDER = Path(__file__).parent / "recipes"
FAMILIES = FOLDER / "families"


class RecipeError(ValueError):
    """A recipe that cannot be used."""


class UnknownRecipe(RecipeError):
    """A recipe that does not exist."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One run. ``model`` is the shape; ``balance``, ``importance``, ``smooth_load`` and ``z`` weigh
    the losses of the routers, ``class_weight`` and ``caption_weight`` those of a picture's class
    and caption beside its patches.

    languages  of a text model, sampled evenly
    mask_ratio share of patches, or of an encoder's tokens, that is hidden and guessed
    replay     a finished run is kept as a replay, without weights
    ship       a finished run becomes the checkpoint of that name; of the recipe's own seed only
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
    smooth_load: float = 0.0
    z: float = 0.0
    warmup: int = 100
    weight_decay: float = 0.01
    clip: float = 1.0
    class_weight: float = 1.0
    caption_weight: float = 1.0
    mask_ratio: float = 0.5
    replay: bool = False
    ship: bool = field(default=False, compare=False)
    languages: tuple[str, ...] = LANGUAGES
    snapshots: tuple[int, ...] = ()

    @classmethod
    def load(cls, name: str, seed: int | None = None) -> Recipe:
        """A recipe by name, or a TOML file by path. Raises RecipeError."""
        path = _file(name)
        try:
            data = tomllib.loads(path.read_text("utf-8"))
            if "members" in data:
                data = _member(data, name)
            model = ModelConfig.from_dict(data.pop("model"))
            data |= _tuples(data)
            recipe = cls(name=name if path.parent == FAMILIES else path.stem, model=model, **data)
            if recipe.data != model.kind:
                raise ValueError(f"a model of kind {model.kind} cannot learn from {recipe.data}")
            if unknown := set(recipe.languages) - set(LANGUAGES):
                raise ValueError(f"languages {sorted(unknown)} are none of {', '.join(LANGUAGES)}")
            if late := [step for step in recipe.snapshots if not 0 < step < recipe.steps]:
                raise ValueError(f"snapshots at {late} do not lie between 0 and {recipe.steps}")
        except (OSError, TypeError, KeyError, ValueError) as error:
            raise RecipeError(f"The recipe {path.name} cannot be used: {error}") from None
        if seed in (None, recipe.seed):
            return recipe
        return replace(recipe, seed=seed, ship=False)

    @classmethod
    def from_dict(cls, data: dict) -> Recipe:
        """The inverse of :meth:`to_dict`, also through JSON. What was written before a field
        existed has its default."""
        model = ModelConfig.from_dict(data["model"])
        return cls(**data | {"model": model} | _tuples(data))

    def to_dict(self) -> dict:
        return asdict(self)

    @property
    def loss_weights(self) -> dict[str, float]:
        """By the names of ``mhmoe.layers.losses``."""
        return {
            "balance": self.balance,
            "importance": self.importance,
            "load": self.smooth_load,
            "z": self.z,
        }


def _tuples(data: dict) -> dict:
    return {name: tuple(data[name]) for name in ("languages", "snapshots") if name in data}


def known() -> list[str]:
    """Names of all recipes, members of families included."""
    alone = [p.stem for p in FOLDER.glob("*.toml")]
    return sorted(alone + [name for family in FAMILIES.glob("*.toml") for name in members(family)])


def members(family: Path) -> list[str]:
    """Names in a family's file, in its order."""
    return list(tomllib.loads(family.read_text("utf-8"))["members"])


def _file(name: str) -> Path:
    if name.endswith(".toml"):
        path = Path(name)
        if path.exists():
            return path
    elif (path := FOLDER / f"{name}.toml").exists():
        return path
    for family in FAMILIES.glob("*.toml"):
        if name in members(family):
            return family
    raise UnknownRecipe(f"Unknown recipe {name!r}; known are {', '.join(known())}.")


def _member(family: dict, name: str) -> dict:
    """One run of a family: what all share, then its own differences."""
    own = dict(family.pop("members")[name])
    sizings = {rule: own.pop(rule) for rule in ("matched", "fine_grained") if rule in own}
    data = _merged(family, own)
    shape = data["model"]
    if "d_ff" in shape:
        del shape["moe"]
        return data
    moe = MoEConfig(**shape["moe"])
    for rule, arguments in sizings.items():
        moe = getattr(moe, rule)(**arguments)
    shape["moe"] = asdict(moe)
    return data


def _merged(base: dict, changes: dict) -> dict:
    """``base`` with ``changes`` in place of its values, at any depth."""
    inner = {
        key: _merged(base[key], value)
        for key, value in changes.items()
        if isinstance(value, dict) and isinstance(base.get(key), dict)
    }
    return base | changes | inner
