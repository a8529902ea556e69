"""One step of training: the losses of a batch, their gradient, the optimiser, the numbers kept."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mhmoe.layers import losses
from mhmoe.models import metrics
from mhmoe.models.patches import random_mask
from mhmoe.models.transformer import Run, Transformer
from mhmoe.training.processes import ALONE, World
from mhmoe.training.recipe import Recipe


class NotFinite(ArithmeticError):
    """A loss or a gradient that is no number; the message says which. The weights are as before."""


@dataclass(frozen=True)
class Step:
    """What one step leaves: the task's loss, and per MoE layer and expert the shares of demand and
    importance [layers, E] float16, None for a dense model. Of the whole batch in every process."""

    loss: float
    demand: np.ndarray | None
    importance: np.ndarray | None


class Learner:
    """The model of a recipe and its optimiser, in a process that has its own rows of each batch."""

    def __init__(self, recipe: Recipe, device: torch.device | str = "cpu", world: World = ALONE):
        self.recipe, self.world = recipe, world
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

    def text(
        self, ids: Tensor, generator: torch.Generator | None, masked: Tensor | None = None
    ) -> tuple[Tensor, Run]:
        """The task's loss for token ids [rows, T]: nats per predicted token. ``masked`` [rows, T]:
        the tokens that are hidden from an encoder, as many in every row."""
        ids, masked = self._here(ids, masked)
        run = self.model(ids, masked=masked, generator=generator)
        return self.world.join(metrics.token_nats(run.output, ids, masked)).mean(), run

    def pictures(
        self,
        patches: Tensor,
        masked: Tensor,
        generator: torch.Generator | None,
        classes: Tensor | None = None,
        caption: Tensor | None = None,
    ) -> tuple[Tensor, Run]:
        """The task's loss for patches [rows, T, values] of which ``masked`` [rows, T] are hidden:
        their mean squared error, and by weight the nats of the classes [rows], -1 for none, or of
        the hidden tokens of captions [rows, tokens], which ``masked`` covers, too."""
        join, r = self.world.join, self.recipe
        patches, masked, classes, caption = self._here(patches, masked, classes, caption)
        run = self.model(patches, caption, masked=masked, generator=generator)
        masked, words = masked.split([patches.shape[1], masked.shape[1] - patches.shape[1]], 1)
        errors = F.mse_loss(run.output, patches, reduction="none")
        loss = join(errors)[join(masked)].mean()
        if classes is not None:
            nats = F.cross_entropy(join(run.classes), join(classes), ignore_index=-1)
            loss = loss + r.class_weight * nats
        if caption is not None:
            nats = F.cross_entropy(run.caption.mT, caption, reduction="none")
            loss = loss + r.caption_weight * join(nats)[join(words)].mean()
        return loss, run

    def _here(self, *tensors: Tensor | None) -> list[Tensor | None]:
        """On the model's device."""
        device = self.model.position.device
        return [None if t is None else t.to(device) for t in tensors]

    def advance(self, number: int, task: Tensor, run: Run) -> Step:
        """One step of the optimiser, at the rate of step ``number``. Raises NotFinite."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.learning_rate * schedule(number, self.recipe)
        layers = [layer for _, layer in self.model.moe_layers]
        routings = [self.world.routing(routing) for routing in run.routing]
        total = task
        demands, importances = [], []
        for routing, layer in zip(routings, layers, strict=True):
            for name, loss in layer.losses(routing).items():
                if weight := self.recipe.loss_weights[name]:
                    total = total + weight * loss
            sums = losses.sums(routing.as_one(), layer.config)
            demands.append(sums.demand[0].float())
            importances.append(sums.importance[0].detach())
        if not math.isfinite(total.item()):
            raise NotFinite(f"The loss became {total.item()}")
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        self.world.average(self.model.parameters())
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        if not math.isfinite(norm):  # before it reaches the weights, and the saved state
            raise NotFinite(f"The gradient became {norm.item()}")
        self.optimizer.step()
        for routing, layer in zip(routings, layers, strict=True):
            layer.after_step(routing)
        return Step(task.item(), _shares(demands), _shares(importances))


def hidden(recipe: Recipe, step: int) -> Tensor:
    """[batch, T] True for what is hidden in a step: tokens of an encoder, patches, and after these
    the tokens of captions. Where pictures have classes, only in every second one, because accuracy
    is measured on whole pictures."""
    r, shape = recipe, recipe.model
    masked = random_mask(r.batch, shape.context, r.mask_ratio, [r.seed, step])
    if shape.classes:
        masked[::2] = False
    if shape.caption:
        words = random_mask(r.batch, shape.caption, r.mask_ratio, [r.seed, step, 1])
        masked = torch.cat([masked, words], 1)
    return masked


def schedule(step: int, recipe: Recipe) -> float:
    """Linear warm-up, then a cosine down to a tenth."""
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    done = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return 0.1 + 0.45 * (1 + math.cos(math.pi * done))


def _shares(rows: list[Tensor]) -> np.ndarray | None:
    """[layers, E] each row divided by its sum; None of no rows."""
    if not rows:
        return None
    stacked = torch.stack(rows)
    return (stacked / stacked.sum(1, keepdim=True)).half().cpu().numpy()
