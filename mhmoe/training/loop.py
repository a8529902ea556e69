"""The training loop: resumable, logged, the same bits again from the same seed and machine."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from mhmoe.models.transformer import Run
from mhmoe.training.processes import ALONE, TrainingError, World
from mhmoe.training.recipe import Recipe
from mhmoe.training.step import Learner, NotFinite
from mhmoe.training.tasks import TASKS

SAVE_EVERY = 50
REPORT_EVERY = 10
VALIDATE_AT = 8  # times along a run


@dataclass
class Progress:
    """What a run tells its caller every few steps."""

    step: int
    steps: int
    loss: float
    tokens_per_second: float
    seconds_left: float
    busiest: float  # largest share of demand of any expert in any layer
    idlest: float


class Job:
    """A recipe on a device, with its state in a folder outside the project. Of several processes
    (``world``) each has a job; the constructor, ``resume`` and ``log`` exchange nothing."""

    def __init__(
        self,
        recipe: Recipe,
        state: Path,
        *,
        text_dir: Path | None = None,
        device: torch.device | str = "cpu",
        world: World = ALONE,
    ):
        self.recipe, self.device, self.world = recipe, device, world
        world.check(recipe.model.moe)
        self.rows = world.rows(recipe.batch)
        self.folder = state / f"{recipe.name}-{recipe.seed}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.learner = Learner(recipe, device, world)
        self.model, self.optimizer = self.learner.model, self.learner.optimizer
        self.step, self.seconds = 0, 0.0
        self.loss_log: list[float] = []
        self.demand_log: list[np.ndarray] = []
        self.importance_log: list[np.ndarray] = []
        self.validation: list[dict] = []
        self.task = TASKS[recipe.data](recipe, text_dir)

    def _generator(self, step: int) -> torch.Generator:
        """Noise is a function of seed and step, so that a resumed run draws the same."""
        generator = self.world.generator(self.device, self.recipe.batch)
        return generator.manual_seed(self.recipe.seed * 1_000_003 + step)

    def _loss(self) -> tuple[torch.Tensor, Run]:
        return self.task.loss(self.learner, self.step, self.rows, self._generator(self.step))

    def validate(self) -> dict:
        self.model.eval()
        numbers = self.task.validate(self.model)
        self.model.train()
        return numbers

    def _validated(self) -> None:
        self.validation.append({"step": self.step, **self.validate()})

    # ------------------------------------------------------------------ the loop

    def run(self, report: Callable[[Progress], None] = lambda p: None) -> None:
        """Train to the end, from where the last saved state stands."""
        started, first, counted = time.monotonic(), self.step, 0.0
        due = {round(i * self.recipe.steps / VALIDATE_AT) for i in range(1, VALIDATE_AT + 1)}
        while self.step < self.recipe.steps:
            self._one_step()
            done = self.step - first
            spent = time.monotonic() - started
            if self.step in due:
                self.world.first(self._validated)
            if self.step in self.recipe.snapshots:
                self.world.first(self.save_snapshot)
            if self.step % SAVE_EVERY == 0 or self.step == self.recipe.steps:
                self.seconds += spent - counted
                counted = spent
                self.world.first(self.save)
            if self.step % REPORT_EVERY == 0 or self.step == self.recipe.steps:
                tokens = self.recipe.batch * self.recipe.model.length
                share = self.demand_log[-1] if self.demand_log else np.ones((1, 1))
                left = spent / done * (self.recipe.steps - self.step)
                report(
                    Progress(
                        self.step,
                        self.recipe.steps,
                        self.loss_log[-1],
                        done * tokens / spent,
                        left,
                        float(share.max()),
                        float(share.min()),
                    )
                )

    def _one_step(self) -> None:
        try:
            done = self.learner.advance(self.step, *self._loss())
        except NotFinite as error:
            raise self.world.failure(
                f"{error} at step {self.step}; stopped. The last good state is in {self.folder}."
            ) from None
        self.step += 1
        self.loss_log.append(done.loss)
        if done.demand is not None:
            self.demand_log.append(done.demand)
            self.importance_log.append(done.importance)

    # ------------------------------------------------------------------ state on disk

    def save(self) -> None:
        """Write the whole state beside the old one, then swap: a cut never loses both."""
        last, new, old = (self.folder / name for name in ("last", "new", "old"))
        try:
            if self._complete() == new:
                new.rename(last)
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir()
            tensors = {f"model.{k}": v.contiguous() for k, v in self.model.state_dict().items()}
            for name, p in self.model.named_parameters():
                kept = self.optimizer.state[p]
                tensors |= {f"first.{name}": kept["exp_avg"], f"second.{name}": kept["exp_avg_sq"]}
            save_file(tensors, str(new / "state.safetensors"))
            save_file(self.log(), str(new / "log.safetensors"))
            (new / "state.json").write_text(json.dumps(self.state()))
        except (OSError, SafetensorError) as error:  # a full disk may raise either
            raise TrainingError(
                f"The state could not be written to {self.folder} ({error}); "
                "the one saved before is kept."
            ) from None
        shutil.rmtree(old, ignore_errors=True)
        if last.exists():
            last.rename(old)
        new.rename(last)
        shutil.rmtree(old, ignore_errors=True)

    def save_snapshot(self) -> None:
        """The weights of this step in float16, as a checkpoint holds them."""
        folder = self.folder / "snapshots"
        try:
            folder.mkdir(exist_ok=True)
            weights = {k: v.half().contiguous() for k, v in self.model.state_dict().items()}
            new = folder / "new"
            save_file(weights, str(new))
            new.rename(self.snapshot(self.step))
        except (OSError, SafetensorError) as error:
            raise TrainingError(
                f"The snapshot of step {self.step} could not be written to {folder} ({error}); "
                "the state saved before is kept."
            ) from None

    def snapshot(self, step: int) -> Path:
        """Where the weights of a step of ``recipe.snapshots`` are kept."""
        return self.folder / "snapshots" / f"{step:06d}.safetensors"

    def discard(self) -> None:
        """Remove the saved state, so that the run starts anew."""
        for name in ("last", "new", "old", "snapshots"):
            shutil.rmtree(self.folder / name, ignore_errors=True)

    def state(self) -> dict:
        """Where the run stands, as plain data."""
        return {
            "step": self.step,
            "seconds": self.seconds,
            "validation": self.validation,
            "recipe": self.recipe.to_dict(),
        }

    def log(self) -> dict[str, torch.Tensor]:
        """loss [steps]; demand and importance shares [steps, layers, E] (absent when dense)."""
        tensors = {"loss": torch.tensor(self.loss_log, dtype=torch.float32)}
        if self.demand_log:
            tensors["demand"] = torch.from_numpy(np.stack(self.demand_log)).half()
            tensors["importance"] = torch.from_numpy(np.stack(self.importance_log)).half()
        return tensors

    def _complete(self) -> Path:
        """The state that was saved last; between the two renames of a save it is the new one."""
        last, new, old = (self.folder / name for name in ("last", "new", "old"))
        return new if not last.exists() and old.exists() else last

    def resume(self) -> bool:
        """Load the last saved state; False if there is none."""
        last = self._complete()
        if not last.exists():
            return False
        try:
            self._restore(last)
        except TrainingError:
            raise
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise TrainingError(
                f"The state in {last} is damaged ({error}); remove it to start anew."
            ) from None
        return True

    def _restore(self, last: Path) -> None:
        facts = json.loads((last / "state.json").read_text())
        if Recipe.from_dict(facts["recipe"]) != self.recipe:
            raise TrainingError(
                f"The state in {self.folder} belongs to another version of the "
                f"recipe {self.recipe.name}; move it away to start anew."
            )
        tensors = load_file(str(last / "state.safetensors"), device=str(self.device))
        self.model.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
        for name, p in self.model.named_parameters():
            self.optimizer.state[p] = {
                "step": torch.tensor(float(facts["step"])),
                "exp_avg": tensors[f"first.{name}"].clone(),
                "exp_avg_sq": tensors[f"second.{name}"].clone(),
            }
        log = load_file(str(last / "log.safetensors"))
        self.loss_log = log["loss"].tolist()
        self.demand_log = list(log["demand"].numpy()) if "demand" in log else []
        self.importance_log = list(log["importance"].numpy()) if "importance" in log else []
        self.step, self.seconds = facts["step"], facts["seconds"]
        self.validation = facts["validation"]


def finished(runs: Path) -> Iterator[tuple[Path, Recipe, dict]]:
    """The folders of the runs in ``runs`` that have come to their end, each with its recipe and
    what its saved state says: step, seconds, validation. Raises TrainingError."""
    for path in sorted(runs.glob("*/last/state.json")):
        try:
            state = json.loads(path.read_text("utf-8"))
            recipe = Recipe.from_dict(state["recipe"])
            over = state["step"] == recipe.steps
        except FileNotFoundError:  # a run that is just being saved, so it has not come to its end
            continue
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise TrainingError(f"The state {path} cannot be read: {error}") from None
        if over:
            yield path.parents[1], recipe, state
