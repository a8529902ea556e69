"""The training loop: resumable, logged, the same bits again from the same seed and machine."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from mhmoe.layers import losses
from mhmoe.models import checkpoint, metrics, tokenizer
from mhmoe.models.patches import random_mask, to_patches
from mhmoe.models.transformer import Run, Transformer
from mhmoe.training.recipe import Recipe
from mhmoe.training.text import TextData, even_sample

SAVE_EVERY = 50
REPORT_EVERY = 10
VALIDATE_AT = 8  # times along a run
VALIDATION = 48  # windows or pictures
CLASSIFIED = 144  # scenes whose class is asked for
TOKENIZER_CHARACTERS = 580_000  # per language; the smallest corpus has about as many


class TrainingError(RuntimeError):
    """Training had to stop; the message says why and what is kept."""


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
    """A recipe on a device, with its state in a folder outside the project."""

    def __init__(
        self,
        recipe: Recipe,
        state: Path,
        *,
        text_dir: Path | None = None,
        device: torch.device | str = "cpu",
    ):
        self.recipe, self.device = recipe, device
        self.folder = state / f"{recipe.name}-{recipe.seed}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.model = Transformer(recipe.model, recipe.seed).to(device)
        matrices = [p for p in self.model.parameters() if p.dim() > 1]
        vectors = [p for p in self.model.parameters() if p.dim() <= 1]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": recipe.weight_decay},
                {"params": vectors, "weight_decay": 0.0},
            ],
            lr=recipe.learning_rate,
            betas=(0.9, 0.95),
        )
        self.step, self.seconds = 0, 0.0
        self.loss_log: list[float] = []
        self.demand_log: list[np.ndarray] = []
        self.importance_log: list[np.ndarray] = []
        self.validation: list[dict] = []
        self._open_data(text_dir)

    # ------------------------------------------------------------------ data

    def _open_data(self, text_dir: Path | None) -> None:
        r = self.recipe
        if r.data == "text":
            if text_dir is None:
                raise TrainingError(
                    f"The recipe {r.name} trains on text; name its folder "
                    "with --text-dir (the README says what must be in it)."
                )
            bpe = open_tokenizer(text_dir, r.model.vocabulary)
            self.train_data, self.held_out_text = (
                TextData(text_dir, split, bpe, r.model.context, r.languages)
                for split in ("train", "dev")
            )
            self.held_out = self.held_out_text.batch(0, 0, VALIDATION)
            self.sizes = tokenizer.byte_sizes(bpe)
        else:
            from mhmoe.training import scenes  # only image runs need scikit-image

            self.scenes = scenes
            self.held_out = scenes.validation(VALIDATION)
            if r.model.classes not in (0, len(scenes.CLASSES)):
                raise TrainingError(
                    f"The scenes have {len(scenes.CLASSES)} classes, the recipe's model "
                    f"{r.model.classes}; write {len(scenes.CLASSES)}, or 0 for a model without."
                )
            if r.model.classes:
                self.classified = scenes.classified_validation(CLASSIFIED)

    def _loss(self, step: int) -> tuple[torch.Tensor, Run]:
        r = self.recipe
        if r.data == "text":
            ids = torch.from_numpy(self.train_data.batch(r.seed, step, r.batch))
            ids = ids.to(self.device).long()
            masked = None
            if not r.model.causal:
                masked = random_mask(*ids.shape, r.mask_ratio, [r.seed, step]).to(self.device)
            run = self.model(ids, masked=masked, generator=self._generator(step))
            return metrics.token_nats(run.output, ids, masked).mean(), run
        pictures, classes = self._pictures(step)
        patches = to_patches(pictures, r.model.patch).to(self.device)
        masked = random_mask(r.batch, r.model.context, r.mask_ratio, [r.seed, step])
        if classes is not None:
            masked[::2] = False  # accuracy is measured on whole pictures, so half of them are whole
        masked = masked.to(self.device)
        run = self.model(patches, masked=masked, generator=self._generator(step))
        loss = F.mse_loss(run.output[masked], patches[masked])
        if classes is not None:
            known = torch.from_numpy(classes).to(self.device)
            loss = loss + r.class_weight * F.cross_entropy(run.classes, known, ignore_index=-1)
        return loss, run

    def _pictures(self, step: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Of one step, and their classes where the model has any: -1 for a photograph."""
        r = self.recipe
        if r.model.classes:
            return self.scenes.classified_batch(r.seed, step, r.batch)
        return self.scenes.batch(r.seed, step, r.batch), None

    def _generator(self, step: int) -> torch.Generator:
        """Noise is a function of seed and step, so that a resumed run draws the same."""
        return torch.Generator(self.device).manual_seed(self.recipe.seed * 1_000_003 + step)

    def validate(self) -> dict:
        self.model.eval()
        if self.recipe.data == "text":
            numbers = metrics.text_metrics(
                self.model, self.held_out, self.sizes, mask_ratio=self.recipe.mask_ratio
            )
        else:
            numbers = metrics.image_metrics(self.model, self.held_out, self.recipe.mask_ratio)
            if self.recipe.model.classes:
                numbers |= metrics.class_metrics(self.model, *self.classified)
        self.model.train()
        return numbers

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
                self.validation.append({"step": self.step, **self.validate()})
            if self.step in self.recipe.snapshots:
                self.save_snapshot()
            if self.step % SAVE_EVERY == 0 or self.step == self.recipe.steps:
                self.seconds += spent - counted
                counted = spent
                self.save()
            if self.step % REPORT_EVERY == 0 or self.step == self.recipe.steps:
                tokens = self.recipe.batch * self.recipe.model.context
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
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.learning_rate * schedule(self.step, self.recipe)
        task, run = self._loss(self.step)
        total = task
        demands, importances = [], []
        layers = [layer for _, layer in self.model.moe_layers]
        for routing, layer in zip(run.routing, layers, strict=True):
            for name, loss in layer.losses(routing).items():
                if weight := self.recipe.loss_weights[name]:
                    total = total + weight * loss
            sums = losses.sums(routing.as_one(), layer.config)
            demands.append(sums.demand[0].float())
            importances.append(sums.importance[0].detach())
        if not math.isfinite(total.item()):
            raise TrainingError(
                f"The loss became {total.item()} at step {self.step}; stopped. "
                f"The last good state is in {self.folder}."
            )
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        if not math.isfinite(norm):  # before it reaches the weights, and the saved state
            raise TrainingError(
                f"The gradient became {norm.item()} at step {self.step}; stopped. "
                f"The last good state is in {self.folder}."
            )
        self.optimizer.step()
        for routing, layer in zip(run.routing, layers, strict=True):
            layer.after_step(routing)
        self.step += 1
        self.loss_log.append(task.item())
        if demands:
            self.demand_log.append(_shares(demands))
            self.importance_log.append(_shares(importances))

    # ------------------------------------------------------------------ state on disk

    def save(self) -> None:
        """Write the whole state beside the old one, then swap: a cut never loses both."""
        new = self.folder / "new"
        try:
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir()
            tensors = {f"model.{k}": v.contiguous() for k, v in self.model.state_dict().items()}
            for name, p in self.model.named_parameters():
                kept = self.optimizer.state[p]
                tensors |= {f"first.{name}": kept["exp_avg"], f"second.{name}": kept["exp_avg_sq"]}
            save_file(tensors, str(new / "state.safetensors"))
            save_file(self.log(), str(new / "log.safetensors"))
            (new / "state.json").write_text(
                json.dumps(
                    {
                        "step": self.step,
                        "seconds": self.seconds,
                        "validation": self.validation,
                        "recipe": self.recipe.to_dict(),
                    }
                )
            )
        except (OSError, SafetensorError) as error:  # a full disk may raise either
            raise TrainingError(
                f"The state could not be written to {self.folder} ({error}); "
                "the one saved before is kept."
            ) from None
        last, old = self.folder / "last", self.folder / "old"
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

    def log(self) -> dict[str, torch.Tensor]:
        """loss [steps]; demand and importance shares [steps, layers, E] (absent when dense)."""
        tensors = {"loss": torch.tensor(self.loss_log, dtype=torch.float32)}
        if self.demand_log:
            tensors["demand"] = torch.from_numpy(np.stack(self.demand_log)).half()
            tensors["importance"] = torch.from_numpy(np.stack(self.importance_log)).half()
        return tensors

    def resume(self) -> bool:
        """Load the last saved state; False if there is none."""
        last, new, old = (self.folder / name for name in ("last", "new", "old"))
        if not last.exists() and old.exists() and new.exists():
            new.rename(last)  # save was cut between its two renames: the new state is complete
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


def schedule(step: int, recipe: Recipe) -> float:
    """Linear warm-up, then a cosine down to a tenth."""
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    done = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return 0.1 + 0.45 * (1 + math.cos(math.pi * done))


def open_tokenizer(text_dir: Path, vocabulary: int):
    """The shipped tokenizer; learned from the text and saved if it is not there yet."""
    path = checkpoint.tokenizer_path()
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        tokenizer.train(even_sample(text_dir, TOKENIZER_CHARACTERS), vocabulary).save(str(path))
    bpe = tokenizer.load(path)
    if bpe.get_vocab_size() != vocabulary:
        raise TrainingError(
            f"The tokenizer has {bpe.get_vocab_size()} tokens, the recipe's model {vocabulary}."
        )
    return bpe


def _shares(rows: list[torch.Tensor]) -> np.ndarray:
    """[layers, E] each row divided by its sum."""
    stacked = torch.stack(rows)
    return (stacked / stacked.sum(1, keepdim=True)).half().cpu().numpy()
