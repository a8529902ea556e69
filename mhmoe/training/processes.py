"""Several processes train one run, each on its own rows of every batch.

``torchrun --nproc-per-node N -m mhmoe train ...`` starts N equal processes, and :func:`joined`
tells each of them its place. Together they compute what one process computes of the whole batch, up
to the order in which numbers are added:

* Every process has the whole model. Rows are dealt out evenly (``rows``); noise is drawn for the
  whole batch, of which a process keeps what belongs to its rows (``generator``).
* The loss is that of the whole batch, and every process computes it. It is not the mean of the
  parts' losses: the balance loss multiplies two sums over all sub-tokens, importance and load take
  a variance of such sums. So the rows that losses are made of are exchanged, not the losses:
  ``join`` lays the rows of all processes end to end. Losses, counts for the log and what a method
  does after a step then see the joined batch, and know nothing of processes.
* Its gradient is the sum of what flows through each process's own rows, and of what flows
  through none (X-MoE's temperature stands in its loss), which every process has in full.
  ``join`` therefore passes the gradient of a process's own rows on N times and that of the others'
  rows not at all, and ``average`` takes the mean over processes: N / N of the one, once the other.
* The first process alone writes, prints and validates (``first``). What fails in one process ends
  all (``together``), and one of them says why.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, distributed

from mhmoe.layers import MoEConfig, Routing
from mhmoe.layers.routers import PartGenerator
from mhmoe.trace import EXPERT_CHOICE

Result = TypeVar("Result")


class TrainingError(RuntimeError):
    """Training had to stop; the message says why and what is kept."""


class Told(TrainingError):
    """The same in a process that leaves it to another one to say why."""


@dataclass(frozen=True)
class World:
    """This process's place among ``size`` equal ones; alone, nothing is exchanged."""

    rank: int = 0
    size: int = 1

    def failure(self, message: str) -> TrainingError:
        """What to raise where every process finds the same."""
        return (Told if self.rank else TrainingError)(message)

    def device(self, chosen: torch.device) -> torch.device:
        """The device of this process: of several GPUs each process has one. Raises
        TrainingError."""
        if self.size == 1 or chosen.type == "cpu":
            return chosen
        if chosen.type != "cuda" or not distributed.is_nccl_available():
            raise TrainingError(
                f"{self.size} processes cannot exchange numbers between devices of type "
                f"{chosen.type} here; use --device cpu, or train in one process."
            )
        local, there = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= there:
            raise TrainingError(
                f"This machine has {there} GPUs for {os.environ['LOCAL_WORLD_SIZE']} processes; "
                f"start torchrun with --nproc-per-node {there}, or use --device cpu."
            )
        torch.cuda.set_device(local)
        return torch.device("cuda", local)

    def check(self, moe: MoEConfig | None) -> None:
        """Raises TrainingError for layers in which one row's choice depends on other rows."""
        if self.size == 1 or moe is None:
            return
        shared = moe.capacity_factor is not None and moe.group != "sequence"
        if shared or moe.assignment == EXPERT_CHOICE:
            raise TrainingError(
                f"Router {moe.router!r} lets sequences of a batch compete for places or take "
                f"different numbers of experts, which {self.size} processes that divide the batch "
                "cannot see; train in one process."
            )

    # ------------------------------------------------------------------ rows

    def rows(self, batch: int) -> slice:
        """The rows of a batch that are this process's. Raises TrainingError."""
        own, rest = divmod(batch, self.size)
        if rest:
            raise TrainingError(
                f"A batch of {batch} rows cannot be divided evenly among {self.size} processes; "
                f"start as many as divide {batch}."
            )
        return slice(self.rank * own, (self.rank + 1) * own)

    def generator(self, device: torch.device | str, batch: int) -> torch.Generator:
        """Draws what one process would draw for the same rows."""
        if self.size == 1:
            return torch.Generator(device)
        return PartGenerator(device, self.rows(batch), batch)

    def join(self, own: Tensor) -> Tensor:
        """[rows, ...] -> [batch, ...]: the rows of all processes, with the gradient that
        ``average`` expects."""
        return own if self.size == 1 else _Join.apply(own, self.rank, self.size)

    def routing(self, own: Routing) -> Routing:
        """The decisions about the whole batch."""
        if self.size == 1:
            return own
        tensors = {name: self.join(v) for name, v in vars(own).items() if isinstance(v, Tensor)}
        return Routing(**tensors, capacity=own.capacity * self.size)

    def average(self, parameters: Iterable[Tensor]) -> None:
        """Gradients become their mean over processes."""
        if self.size == 1:
            return
        grads = [p.grad for p in parameters]
        every = torch.cat([g.flatten() for g in grads])
        _exchange(distributed.all_reduce, every)
        every /= self.size
        for grad, mean in zip(grads, every.split([g.numel() for g in grads]), strict=True):
            grad.copy_(mean.view_as(grad))

    # ------------------------------------------------------------------ work

    def together(self, work: Callable[[], Result]) -> Result:
        """``work()``, which exchanges nothing, in every process. If it fails in any, all stop, and
        the first of those where it failed raises its own error."""
        if self.size == 1:
            return work()
        result, failure = None, None
        try:
            result = work()
        except Exception as error:  # whatever it is, the others must not wait
            failure = error
        failed = [rank for rank, bad in enumerate(self._each(failure is not None)) if bad]
        if not failed:
            return result
        if failed[0] == self.rank:
            raise failure
        raise Told(f"Process {failed[0]} had to stop.")

    def first(self, work: Callable[[], object]) -> None:
        """``work()`` in the first process, for which the others wait."""
        self.together(work if self.rank == 0 else lambda: None)

    def same(self, what: str, own: object) -> None:
        """Raises TrainingError where a fact is not the same in all processes."""
        found = sorted({str(value) for value in self._each(own)}) if self.size > 1 else [own]
        if len(found) > 1:
            raise self.failure(
                f"The {self.size} processes do not agree about {what}: {', '.join(found)}."
            )

    def _each(self, own: object) -> list:
        found = [None] * self.size
        _exchange(distributed.all_gather_object, found, own)
        return found


#: One process, as without torchrun.
ALONE = World()


@contextmanager
def joined() -> Iterator[World]:
    """This process's place among those that torchrun started; without torchrun it is alone.
    Raises TrainingError."""
    if "TORCHELASTIC_RUN_ID" not in os.environ or os.environ["WORLD_SIZE"] == "1":
        yield ALONE
        return
    world = World(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    if not distributed.is_gloo_available():
        raise world.failure(
            f"PyTorch {torch.__version__} was built without gloo, which connects processes; "
            "install a build that has it, or train in one process, without torchrun."
        )
    distributed.init_process_group()
    try:
        world.same("the version of PyTorch", torch.__version__)
        yield world
    except Told:  # torchrun stops all as soon as one ends: wait for the one that says why
        with suppress(RuntimeError):
            distributed.all_reduce(torch.zeros(1))
        raise
    distributed.destroy_process_group()


class _Join(torch.autograd.Function):
    @staticmethod
    def forward(ctx, own: Tensor, rank: int, size: int) -> Tensor:
        ctx.rank, ctx.size = rank, size
        parts = [torch.empty_like(own, memory_format=torch.contiguous_format) for _ in range(size)]
        _exchange(distributed.all_gather, parts, own.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        return ctx.size * grad.chunk(ctx.size)[ctx.rank], None, None


def _exchange(operation: Callable[..., object], *args: object) -> None:
    try:
        operation(*args)
    except RuntimeError as error:  # backends have no name of their own for a broken connection
        world = World(distributed.get_rank(), distributed.get_world_size())
        raise world.failure(
            f"Another of the {world.size} processes has stopped ({error}); the last saved state "
            "is kept."
        ) from None
