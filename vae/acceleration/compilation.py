"""Compile the forward and backward pass of a training step, and the importance sampler's draws, with TorchInductor.

A step of a small model spends much of its time in Python and in dispatching a hundred operations. torch.compile saves
little of it, because its guards and wrappers take as long. So make_fx traces the operations, including those of
autograd, into one graph, and TorchInductor compiles the graph.
"""

import logging
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx import Graph, GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx

from vae.config.section import Compile
from vae.errors import UserError

log = logging.getLogger(__name__)
logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # silences a warning that there is no GPU

# From these numbers on, compiling saves the 15 s that it takes on a CPU the first time on a machine.
MIN_STEPS = 10_000  # saves 1.5 ms per step
MIN_DRAWS = 10_000_000  # saves 1.5 us per draw

T = TypeVar("T")


def tanh(x: Tensor) -> Tensor:
    """Return tanh(x) with an error below 2e-7. TorchInductor's own tanh takes three times as long on a CPU."""
    return 2 * torch.sigmoid(2 * x) - 1


DECOMPOSITIONS: dict[Any, Callable[..., Tensor]] = {torch.ops.aten.tanh.default: tanh}


def check_compiler() -> None:
    """Raise UserError if there is no working C++ compiler."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except (InvalidCxxCompiler, OSError):
        raise UserError("no C++ compiler was found; expected g++ (clang++ on macOS), or another one in CXX") from None


def try_compile(make: Callable[[], T], requested: Compile) -> T | None:
    """Return make(). If it fails, log why and return None, or raise UserError if `requested` is True."""
    try:
        check_compiler()
        return make()
    except Exception as error:  # noqa: BLE001 (from the compiler, from torch, or from code that cannot be traced)
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        reason = next((line for line in lines if "error:" in line), lines[0])
    if requested is True:
        raise UserError(f"compile=true: {reason}")
    log.info(f"compile=auto: {reason}; continuing without compilation")
    return None


def trainable_parameters(module: nn.Module) -> list[Tensor]:
    """Return the trainable parameters as detached tensors that share their memory."""
    return [parameter.detach() for parameter in module.parameters() if parameter.requires_grad]


def trace_step(module: nn.Module, x: Tensor, *y: Tensor) -> GraphModule:
    """Trace a forward and backward pass: a graph of (x, weight, *y, *trainable parameters) -> [sums, *gradients].

    `module(x, weight, *y)` returns (loss, sums). The graph is valid for inputs of the shape of x: shapes and other
    values that are not tensors become constants, and so do buffers and frozen parameters. The gradient of a parameter
    that does not affect the loss is None.
    """
    names = [name for name, parameter in module.named_parameters() if parameter.requires_grad]

    def step(x: Tensor, weight: Tensor, *others: Tensor) -> list[Tensor | None]:
        labels, parameters = others[: len(y)], others[len(y) :]
        leaves = [parameter.detach().requires_grad_() for parameter in parameters]
        loss, sums = functional_call(module, dict(zip(names, leaves, strict=True)), (x, weight, *labels))
        return [sums, *torch.autograd.grad(loss, leaves, allow_unused=True)]

    with torch.random.fork_rng():
        return make_fx(step, DECOMPOSITIONS)(x, x.new_ones(()), *y, *trainable_parameters(module))


def compile_graph(graph: GraphModule, inputs: list[Any], **options: bool) -> Callable[..., Any]:
    """Compile a graph with TorchInductor, for inputs with the shapes of these."""
    import torch._inductor

    log.info("compiling: takes some seconds, and more the first time on a machine")
    return torch._inductor.compile(graph, inputs, options={"fallback_random": True, **options})


class CompiledStep:
    """The compiled forward and backward pass of `module` for images of the shape of x, with labels y or none.

    It draws the same random numbers as `module`; the results are the same up to rounding.
    """

    def __init__(self, module: nn.Module, x: Tensor, *y: Tensor) -> None:
        self.shape = x.shape
        self.parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self.values = trainable_parameters(module)
        inputs = [x.contiguous(), x.new_ones(()), *y, *self.values]
        self.run = compile_graph(trace_step(module, inputs[0], *y), inputs)

    @torch.no_grad()
    def forward_backward(self, x: Tensor, weight: float | Tensor, *y: Tensor) -> Tensor:
        """Set the gradients of the parameters; return the sums."""
        sums, *gradients = self.run(
            x.contiguous(), torch.as_tensor(weight, dtype=x.dtype, device=x.device), *y, *self.values
        )
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            # fused optimizers assume that a gradient has the memory layout of its parameter
            parameter.grad = None if gradient is None else gradient.contiguous()
        return sums


def split_graph(graph: GraphModule) -> tuple[GraphModule, GraphModule]:
    """Split a graph of x into a deterministic and a random part, such that graph(x) = rest(*first(x)).

    The random part must not write in place to tensors of the deterministic part.
    """
    nodes = list(graph.graph.nodes)
    from_x: set[Node] = set()
    random: set[Node] = set()
    for node in nodes:
        sources = set(node.all_input_nodes)
        if node.op == "placeholder" or sources & from_x:
            from_x.add(node)
        if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()) or sources & random:
            random.add(node)
    deterministic = from_x - random - {nodes[-1]}
    passed = [node for node in nodes if node in deterministic and set(node.users) - deterministic]
    first, rest = Graph(), Graph()
    in_first: dict[Node, Node] = {}
    in_rest = {node: rest.placeholder(node.name) for node in passed}
    for node in nodes[:-1]:
        if node not in random:
            in_first[node] = first.node_copy(node, in_first.__getitem__)
        if node not in deterministic:
            in_rest[node] = rest.node_copy(node, in_rest.__getitem__)
    first.output([in_first[node] for node in passed])
    rest.node_copy(nodes[-1], in_rest.__getitem__)
    for part in (first, rest):
        part.eliminate_dead_code()
    return GraphModule(graph, first), GraphModule(graph, rest)


class CompiledDraws:
    """The compiled function draw(x, k, *y), with k draws per image, for repeated calls with images shaped like x.

    The part without random numbers is computed once per batch of images. Parameters are constants. It draws the same
    random numbers as `draw`; the results are the same up to rounding.
    """

    def __init__(self, draw: Callable[..., Tensor], x: Tensor, k: int, *y: Tensor) -> None:
        self.shape = (k, *x.shape)
        x = x.contiguous()
        with torch.random.fork_rng(), torch.no_grad():
            self.first, rest = split_graph(make_fx(lambda x, *y: [draw(x, k, *y)], DECOMPOSITIONS)(x, *y))
            self.run = compile_graph(rest, self.first(x, *y), freezing=True)

    def bind(self, x: Tensor, *y: Tensor) -> Callable[[], Tensor]:
        """Return a function that returns a new draw(x, k, *y) at each call."""
        inputs = self.first(x.contiguous(), *y)
        return lambda: self.run(*inputs)[0]
