"""Optimizer steps as a CUDA graph: one step is captured and then replayed.

For a small model, Python takes longer to launch the hundred operations of a step than a GPU takes to run them.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from datamodules.loaders import chunk_batches
from vae.errors import UserError


def capture_graph(function: Callable[[], None]) -> Callable[[], None]:
    """Capture `function` as a CUDA graph, without running it; return the function that replays the graph.

    Raises UserError if an operation cannot be captured.
    """
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            function()
    except RuntimeError as error:
        # leaving torch.cuda.graph raises a second, less informative error
        reason = str(error.__context__ or error).partition("\n")[0]
        raise UserError(f"cuda_graph=true: this step cannot be captured ({reason}); use cuda_graph=false") from None
    return graph.replay


class CUDAGraphStepper:
    """Take optimizer steps of `module` on batches of the shape of x, (B, C, H, W), by replaying a CUDA graph.

    A batch is images and, in a conditional model, their labels y.

    The result is that of the module's own steps, up to rounding, with the same random numbers. The first call takes its
    steps without a graph, because what they initialise must not be captured. If the module has a compiled step, the
    optimizer is compiled too.
    """

    def __init__(self, module: Any, x: Tensor, *y: Tensor) -> None:
        self.module, self.shape = module, x.shape
        optimizer = module.optimizers().optimizer
        self.optimizer_step = optimizer.step
        for group in optimizer.param_groups:
            group["capturable"] = True
        if module.compiled_step:
            for group in optimizer.param_groups:
                if "fused" in group:
                    group["fused"] = False  # a fused kernel cannot be merged with other operations
            torch._dynamo.reset()  # torch.compile gives up after eight optimizers in one process
            self.optimizer_step = torch.compile(self.optimizer_step)
        self.max_steps = chunk_batches(x.numel(), on_gpu=True)
        self.batches = [part.new_zeros(self.max_steps, *part.shape) for part in (x, *y)]
        self.step_inputs = x.new_ones(self.max_steps, 2)  # objective weight and learning rate of each step
        self.sums = x.new_zeros(self.max_steps, len(module.metric_names))
        self.step_index = torch.zeros(1, dtype=torch.long, device=x.device)
        self.lr = x.new_ones(())
        self.replay: Callable[[], None] | None = None

    def step(self) -> None:
        """Take the step of `step_index`, then increment it. All inputs and outputs are tensors at fixed addresses."""
        weight, lr = self.step_inputs.index_select(0, self.step_index)[0]
        x, *y = (part.index_select(0, self.step_index)[0] for part in self.batches)
        sums = self.module.compute_gradients(x, weight, *y)
        self.lr.copy_(lr)
        self.optimizer_step()
        if self.module.average:
            self.module.average.update()
        self.sums.index_copy_(0, self.step_index, sums[None])
        self.step_index.add_(1)

    def steps(self, batches: list[tuple[Tensor, ...]], first: int) -> list[Tensor]:
        """Take one step per batch; return each one's sums of metrics, (n,).

        There are at most `max_steps` batches. `first` is the number of steps before this call.
        """
        n = len(batches)
        for parts, stacked in zip(zip(*batches, strict=True), self.batches, strict=True):
            torch.stack(parts, out=stacked[:n])
        inputs = [
            (self.module.objective_weight(step), self.module.learning_rate(step)) for step in range(first, first + n)
        ]
        self.step_inputs[:n].copy_(torch.tensor(inputs), non_blocking=True)
        self.step_index.zero_()
        self.module.set_learning_rate(self.lr)  # a tensor, because a float would be captured as a constant
        step = self.replay or self.step
        for _ in batches:
            step()
        self.replay = self.replay or capture_graph(self.step)
        self.module.set_learning_rate(inputs[-1][1])
        self.module.advance_step_counter(n)
        return list(self.sums[:n].clone())
