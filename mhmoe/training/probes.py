"""What a model's vectors tell, without training it further: linear probes, and RC of its experts.

A linear probe (Alain and Bengio 2016, arXiv 1610.01644) stands in for the tasks on which papers
fine-tune: multinomial logistic regression on the frozen residual stream of one token. Its accuracy
is given beside

    majority   always the most frequent class of the training part
    control    the same probe for labels that each token id draws once by chance: what it can learn
               by heart (Hewitt and Liang 2019, arXiv 1909.03368); accuracy less control is their
               selectivity
    untrained  the same probe on the same model before its first step

Training and test windows are the first and second half of each language, so no sentence is in both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mhmoe.analysis import nulls, report
from mhmoe.models import metrics
from mhmoe.models.transformer import Transformer

if TYPE_CHECKING:
    from mhmoe.training.questions import HeldOut

DECAY = 1e-3  #: of the squared weights, half of it beside the mean cross-entropy
STEPS = 60  #: of L-BFGS at most


@dataclass(frozen=True, eq=False)
class Task:
    """windows [N, T] token ids and what is asked of each, label [N, T], -1 for nothing; language
    [N] of the windows."""

    windows: np.ndarray
    label: np.ndarray
    language: np.ndarray

    @property
    def taught(self) -> np.ndarray:
        """[N] True for the first half of each language's windows."""
        found = np.zeros(len(self.language), bool)
        for language in np.unique(self.language):
            rows = np.flatnonzero(self.language == language)
            found[rows[: len(rows) // 2]] = True
        return found

    def control(self) -> np.ndarray:
        """[N, T] labels that every token id draws once, as often as the taught labels occur."""
        known = self.label[self.taught]
        share = np.bincount(known[known >= 0]) / (known >= 0).sum()
        rng = np.random.default_rng(report.SEED)
        drawn = rng.choice(len(share), self.windows.max() + 1, p=share)
        return np.where(self.label >= 0, drawn[self.windows], -1)


def of(model: Transformer, seed: int, text: HeldOut, words: HeldOut | None = None) -> dict:
    """The language of each token of ``text``, if it has several, and the word class of each of
    ``words``, treebanks; ``seed`` is that from which the model was trained. What has one window of
    each language only can teach nothing and is left out."""
    tasks = {}
    if len(text.languages) > 1:
        language = np.repeat(text.language[:, None], text.windows.shape[1], 1)
        tasks["language"] = Task(text.windows, language, text.language)
    if words:
        tasks["word_class"] = Task(words.windows, words.kind, words.language)
    asked = {name: task for name, task in tasks.items() if task.taught.any()}
    return {name: probed(model, untrained(model, seed), task) for name, task in asked.items()}


def probed(model: Transformer, start: Transformer, task: Task) -> dict:
    """One task on what the last block of a model leaves, and of the same model untrained. The
    numbers of every window are kept, so that models can be compared window by window."""
    trained, plain = (features(one, task.windows) for one in (model, start))
    known = task.label[task.taught]
    most = np.bincount(known[known >= 0]).argmax()
    asked = task.label[~task.taught]
    correct, count = right(trained, task.label, task)
    control = _accuracy(*right(trained, task.control(), task), task)
    accuracy = _accuracy(correct, count, task)
    return {
        "accuracy": accuracy,
        "window_correct": correct.tolist(),
        "window_tokens": count.tolist(),
        "control": control,
        "selectivity": accuracy["value"] - control["value"],
        "untrained": _accuracy(*right(plain, task.label, task), task),
        "majority": float((asked[asked >= 0] == most).mean()),
        "taught": int((known >= 0).sum()),
        "tokens": int((asked >= 0).sum()),
    }


@torch.no_grad()
def features(model: Transformer, windows: np.ndarray) -> Tensor:
    """[N, T, D] the residual stream after the last block, to which every layer has added."""
    chunks = metrics.chunks(model, windows)
    return torch.cat([model(ids, with_vectors=True).stream[-1] for ids in chunks])


def right(x_NTD: Tensor, label_NT: np.ndarray, task: Task) -> tuple[np.ndarray, np.ndarray]:
    """What a probe that learns from the taught windows gets right in each of the others, and of
    how many tokens."""
    taught = task.taught
    label = torch.from_numpy(label_NT).to(x_NTD.device).long()
    learn = torch.from_numpy(taught).to(x_NTD.device)[:, None] & (label >= 0)
    weight = fitted(x_NTD[learn], label[learn])
    guess = (_with_one(x_NTD) @ weight).argmax(-1).cpu().numpy()[~taught]
    asked = label_NT[~taught]
    return ((guess == asked) & (asked >= 0)).sum(1), (asked >= 0).sum(1)


def _accuracy(correct_N: np.ndarray, count_N: np.ndarray, task: Task) -> dict:
    """With its interval over windows."""
    draws = nulls.resampled(task.language[~task.taught], report.BOOTSTRAP, report.SEED)
    return {
        "value": float(correct_N.sum() / count_N.sum()),
        "interval": nulls.interval(draws @ correct_N / (draws @ count_N)),
    }


def fitted(x_RD: Tensor, label_R: Tensor) -> Tensor:
    """[D + 1, classes] weights of multinomial logistic regression, the last row the bias: for
    scores of vectors with a one at their end. A convex problem, solved from zero by L-BFGS."""
    mean, deviation = x_RD.mean(0), x_RD.std(0).clamp_min(1e-6)
    x = _with_one((x_RD - mean) / deviation)
    weight = x.new_zeros(x.shape[1], int(label_R.max()) + 1, requires_grad=True)
    solver = torch.optim.LBFGS([weight], max_iter=STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        found = F.cross_entropy(x @ weight, label_R) + DECAY / 2 * weight[:-1].square().sum()
        found.backward()
        return found

    solver.step(loss)
    slope = weight.detach()[:-1] / deviation[:, None]
    return torch.cat([slope, weight.detach()[-1:] - mean @ slope])


def _with_one(x: Tensor) -> Tensor:
    return F.pad(x, (0, 1), value=1.0)


# ------------------------------------------------------------------------ experts


def collapse(model: Transformer, seed: int, windows: np.ndarray, group: np.ndarray) -> list[dict]:
    """RC of every layer, and that of the same model before its first step: how far experts lie
    apart depends on the kind of router even then. ``group`` [N] as in ``report``."""
    both = (model, untrained(model, seed))
    found = []
    for (x, first), (plain_x, plain_first), (_, layer) in zip(
        *(router_inputs(one, windows) for one in both), model.moe_layers, strict=True
    ):
        E = layer.config.experts
        start = report.rc(plain_x, plain_first, E, group)
        found.append({**report.collapsed(x, first, E, group), "untrained": start})
    return found


@torch.inference_mode()
def router_inputs(model: Transformer, windows: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of every MoE layer the sub-tokens [N, R, D/H] as its router reads them, and the first choice
    [N, R] of each."""
    kept: list[list[tuple[Tensor, Tensor]]] = [[] for _ in model.moe_layers]
    for ids in metrics.chunks(model, windows):
        run = model(ids, with_vectors=True)
        for those, vectors, routing in zip(kept, run.vectors, run.routing, strict=True):
            first = routing.expert[..., 0]
            x = vectors["wide"].reshape(*first.shape, -1)
            those.append((x.cpu(), first.cpu()))
    return [tuple(torch.cat(parts).numpy() for parts in zip(*those, strict=True)) for those in kept]


def untrained(model: Transformer, seed: int) -> Transformer:
    """The same model before its first step, if it was trained from this seed."""
    return Transformer(model.config, seed).to(next(model.parameters()).device).eval()
