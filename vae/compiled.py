"""A step's loss and gradients as one compiled function.

Of the time that a step of a small model takes, much goes to Python and to the dispatch of a hundred operations.
torch.compile would save little of it: its guards and wrappers take as long. So the operations are written down as they
run, those of autograd among them, and TorchInductor makes one function of the list.
"""

import logging
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from vae.config import UserError

log = logging.getLogger(__name__)
logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # which warns that there is no GPU


def check_compiler(processes: int) -> None:
    """Raise UserError where several processes have parts of a step, or where there is no C++ compiler."""
    if processes > 1:
        raise UserError(f"compile=true: expected a training in one process, and trainer.devices is {processes}")
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        raise UserError(
            "compile=true: no C++ compiler was found; expected g++ (on macOS clang++), or CXX to name another"
        ) from None


def learned(module: nn.Module) -> list[Tensor]:
    """The parameters that are learned, as tensors without a gradient that change as they do."""
    return [parameter.detach() for parameter in module.parameters() if parameter.requires_grad]


def recorded(module: nn.Module, x: Tensor) -> GraphModule:
    """What happens in a step on images like x: of x, a weight and the learned parameters, [sums, *gradients].

    `module(x, weight)` returns the loss and what else is wanted, the sums. Whatever is no tensor, the shapes above all,
    stays what it was in this step, and so do buffers and frozen parameters; a gradient is None where the loss does not
    depend on the parameter.
    """
    names = [name for name, parameter in module.named_parameters() if parameter.requires_grad]

    def step(x: Tensor, weight: Tensor, *parameters: Tensor) -> list[Tensor | None]:
        leaves = [parameter.detach().requires_grad_() for parameter in parameters]
        loss, sums = functional_call(module, dict(zip(names, leaves, strict=True)), (x, weight))
        return [sums, *torch.autograd.grad(loss, leaves, allow_unused=True)]

    with torch.random.fork_rng():
        return make_fx(step)(x, torch.ones(()), *learned(module))


class Compiled:
    """The steps of `module` on images of the shape of x, as one function.

    Random numbers are those that `module` itself would draw; all else is right to rounding. Raises UserError where the
    compiler fails.
    """

    def __init__(self, module: nn.Module, x: Tensor) -> None:
        import torch._inductor
        from torch._dynamo.exc import ShortenTraceback

        log.info("compiling the step; some seconds, and more the first time on this machine")
        self.shape = x.shape
        self.parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self.values = learned(module)
        given: list[Any] = [x.contiguous(), torch.ones(()), *self.values]
        try:
            self.run = torch._inductor.compile(recorded(module, given[0]), given, options={"fallback_random": True})
        except ShortenTraceback as error:
            lines = str(error).strip().splitlines()
            told = next((line for line in lines if "error:" in line), lines[-1])
            raise UserError(f"compile=true: {told.strip()}") from None

    @torch.no_grad()
    def differentiate(self, x: Tensor, weight: float) -> Tensor:
        """Set the gradients of the parameters; the sums."""
        sums, *gradients = self.run(x.contiguous(), torch.tensor(weight), *self.values)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            # a fused optimiser takes it for granted that a gradient lies in memory as its parameter does
            parameter.grad = None if gradient is None else gradient.contiguous()
        return sums
