"""Steps of the optimiser as a CUDA graph: what one tells the GPU is recorded, and played back for those that follow.

A GPU takes less time for a step of a small model than Python takes to ask for its hundred operations.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from datamodules.base import chunk_batches
from vae.errors import UserError


def capture_graph(work: Callable[[], None]) -> Callable[[], None]:
    """`work` as a CUDA graph. It is recorded and not done; to call the graph does it. UserError where it cannot be."""
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            work()
    except RuntimeError as error:
        told = str(error.__context__ or error).partition("\n")[0]  # leaving the graph fails too, and says less
        raise UserError(
            f"cuda_graph=true: this step cannot be recorded ({told}); cuda_graph=false can take it"
        ) from None
    return graph.replay


class CUDAGraphStepper:
    """The steps of `module` on images of the shape of x, (B, C, H, W).

    They are those `module` would take itself, to rounding, with the same random numbers. The first call takes its steps
    one by one, which makes ready what a graph cannot; the others play back. Where `module` has compiled its gradients,
    the optimiser is compiled too.
    """

    def __init__(self, module: Any, x: Tensor) -> None:
        self.module, self.shape = module, x.shape
        optimizer = module.optimizers().optimizer
        self.groups = optimizer.param_groups
        self.move = optimizer.step
        for group in self.groups:
            group["capturable"] = True
        if module.compiled:
            for group in self.groups:
                if "fused" in group:
                    group["fused"] = False  # which would stay the one kernel it is
            torch._dynamo.reset()  # or it would compile no more than eight optimisers in one process
            self.move = torch.compile(self.move)
        self.most = chunk_batches(x.numel(), on_gpu=True)
        self.images = x.new_zeros(self.most, *x.shape)
        self.told = x.new_ones(self.most, 2)  # a step's weight and learning rate
        self.sums = x.new_zeros(self.most, len(module.names))
        self.i = torch.zeros(1, dtype=torch.long, device=x.device)  # the step
        self.lr = x.new_ones(())
        self.graph: Callable[[], None] | None = None

    def step(self) -> None:
        """A step on the images of self.i, which moves on."""
        weight, lr = self.told.index_select(0, self.i)[0]
        sums = self.module.gradients(self.images.index_select(0, self.i)[0], weight)
        self.lr.copy_(lr)
        self.move()
        self.sums.index_copy_(0, self.i, sums[None])
        self.i.add_(1)

    def steps(self, batches: list[Tensor], first: int) -> list[Tensor]:
        """One on each of at most `most` batches, after `first` others; the sums of their values, each (n,)."""
        n = len(batches)
        torch.stack(batches, out=self.images[:n])
        told = [(self.module.weight(step), self.module.lr(step)) for step in range(first, first + n)]
        self.told[:n].copy_(torch.tensor(told), non_blocking=True)
        self.i.zero_()
        for group in self.groups:
            group["lr"] = self.lr  # a number would be recorded as what it is now
        step = self.graph or self.step
        for _ in batches:
            step()
        self.graph = self.graph or capture_graph(self.step)
        for group in self.groups:
            group["lr"] = told[-1][1]
        self.module.report(n)
        return list(self.sums[:n].clone())
