"""What a model's vectors tell, without training it further: linear probes, and RC of its experts.

A linear probe (Alain and Bengio 2016, arXiv 1610.01644) stands in for the tasks on which papers
fine-tune: multinomial logistic regression on the frozen residual stream, of one token of text, or
of one object of a picture. An object is the mean over the patches that it owns: they are one
witness, not many, and one by one a large object would count as often as it has patches. The
accuracy is given beside

    majority   always the most frequent class of the training part
    untrained  the same probe on the same model before its first step
    control    of tokens: the same probe for labels that each token id draws once by chance: what it
               can learn by heart (Hewitt and Liang 2019, arXiv 1909.03368); accuracy less control
               is their selectivity. Objects have none: what is learned of one by heart is of no
               use, as none is met again
    pixels     of objects: the same probe on the mean of the patches' own pixels, without a model

Training and test windows are the first and second half of each language, so no sentence is in both;
pictures are halved in the same way, all at once, and classes, which go round, are in both.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mhmoe.analysis import nulls, report
from mhmoe.models import metrics
from mhmoe.models.patches import to_patches
from mhmoe.models.transformer import Transformer

if TYPE_CHECKING:
    from mhmoe.training.measure_images import Pictures
    from mhmoe.training.questions import HeldOut

DECAY = 1e-3  #: of the squared weights, half of it beside the mean cross-entropy
STEPS = 60  #: of L-BFGS at most


@dataclass(frozen=True, eq=False)
class Task:
    """label [N, T] what is asked of each token of N windows, or of each of up to T objects of N
    pictures, -1 for nothing; group [N] of the windows: their language, or one for all pictures;
    ``whole``, ``parts``: what these are called in the results."""

    label: np.ndarray
    group: np.ndarray
    whole: str = "window"
    parts: str = "tokens"

    @property
    def taught(self) -> np.ndarray:
        """[N] True for the first half of each group's windows."""
        found = np.zeros(len(self.group), bool)
        for group in np.unique(self.group):
            rows = np.flatnonzero(self.group == group)
            found[rows[: len(rows) // 2]] = True
        return found

    def control(self, windows: np.ndarray) -> Task:
        """Labels that every token id of ``windows`` [N, T] draws once, as often as the taught
        labels occur."""
        known = self.label[self.taught]
        share = np.bincount(known[known >= 0]) / (known >= 0).sum()
        rng = np.random.default_rng(report.SEED)
        drawn = rng.choice(len(share), windows.max() + 1, p=share)
        return replace(self, label=np.where(self.label >= 0, drawn[windows], -1))


# ------------------------------------------------------------------------ text


def of(model: Transformer, seed: int, text: HeldOut, words: HeldOut | None = None) -> dict:
    """The language of each token of ``text``, if it has several, and the word class of each of
    ``words``, treebanks; ``seed`` is that from which the model was trained. What has one window of
    each language only can teach nothing and is left out."""
    tasks = {}
    if len(text.languages) > 1:
        language = np.repeat(text.language[:, None], text.windows.shape[1], 1)
        tasks["language"] = (Task(language, text.language), text.windows)
    if words:
        tasks["word_class"] = (Task(words.kind, words.language), words.windows)
    asked = {name: both for name, both in tasks.items() if both[0].taught.any()}
    start = untrained(model, seed)
    return {name: of_tokens(model, start, *both) for name, both in asked.items()}


def of_tokens(model: Transformer, start: Transformer, task: Task, windows: np.ndarray) -> dict:
    """One task on what the last block of a model leaves of windows [N, T], and of the same model
    untrained."""
    x = features(model, windows)
    found = probed(task, x, untrained=features(start, windows))
    control = accuracy(*right(x, task.control(windows)), task)
    selectivity = found["accuracy"]["value"] - control["value"]
    return found | {"control": control, "selectivity": selectivity}


@torch.no_grad()
def features(model: Transformer, windows: np.ndarray) -> Tensor:
    """[N, T, D] the residual stream after the last block, to which every layer has added."""
    chunks = metrics.chunks(model, windows)
    return torch.cat([model(ids, with_vectors=True).stream[-1] for ids in chunks])


# ------------------------------------------------------------------------ pictures


def of_pictures(model: Transformer, seed: int, pictures: Pictures) -> dict:
    """The shape, texture, colour and position of each object in view; ``seed`` is that from which
    the model was trained. Empty for a single picture, which can teach nothing."""
    if len(pictures.scenes) < 2:
        return {}
    pixels, patch = pictures.pixels, model.config.patch
    objects = pictures.objects(patch)
    index, mean = objects.in_pictures()
    share = torch.from_numpy(mean).to(next(model.parameters()).device).float()
    tasks = {
        name: Task(np.where(index < 0, -1, label[index]), pictures.group, "picture", "objects")
        for name, label in objects.label.items()
    }
    x = object_features(model, pixels, share)
    floors = {
        "untrained": object_features(untrained(model, seed), pixels, share),
        "pixels": share @ to_patches(pixels, patch).to(share.device),
    }
    return {name: probed(task, x, **floors) for name, task in tasks.items()}


def object_features(model: Transformer, pixels: np.ndarray, share_NOT: Tensor) -> Tensor:
    """[N, O, D] the residual stream after the last block, of whole pictures uint8
    [N, side, side, 3], in the sums over patches that ``share`` [N, O, T] says."""
    shares, found = iter(share_NOT.split(metrics.BATCH)), []
    metrics.whole_pictures(
        model, pixels, lambda run: found.append(next(shares) @ run.stream[-1]), with_vectors=True
    )
    return torch.cat(found)


# ------------------------------------------------------------------------ the probe


def probed(task: Task, x_NTD: Tensor, **floors: Tensor) -> dict:
    """One task on the vectors of a model, and on those of each floor. The numbers of every window
    are kept, so that models can be compared window by window."""
    known, asked = task.label[task.taught], task.label[~task.taught]
    most = np.bincount(known[known >= 0]).argmax()
    correct, count = right(x_NTD, task)
    return {
        "accuracy": accuracy(correct, count, task),
        f"{task.whole}_correct": correct.tolist(),
        f"{task.whole}_{task.parts}": count.tolist(),
        **{name: accuracy(*right(floor, task), task) for name, floor in floors.items()},
        "majority": float((asked[asked >= 0] == most).mean()),
        "taught": int((known >= 0).sum()),
        task.parts: int((asked >= 0).sum()),
    }


def right(x_NTD: Tensor, task: Task) -> tuple[np.ndarray, np.ndarray]:
    """What a probe that learns from the taught windows gets right in each of the others, and of
    how many tokens."""
    taught = task.taught
    label = torch.from_numpy(task.label).to(x_NTD.device).long()
    learn = torch.from_numpy(taught).to(x_NTD.device)[:, None] & (label >= 0)
    weight = fitted(x_NTD[learn], label[learn])
    guess = (_with_one(x_NTD) @ weight).argmax(-1).cpu().numpy()[~taught]
    asked = task.label[~taught]
    return ((guess == asked) & (asked >= 0)).sum(1), (asked >= 0).sum(1)


def accuracy(correct_N: np.ndarray, count_N: np.ndarray, task: Task) -> dict:
    """With its interval over windows."""
    draws = nulls.resampled(task.group[~task.taught], report.BOOTSTRAP, report.SEED)
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
