"""A step's loss and gradients, and the estimator's draws, as one compiled function each.

Of the time that a step of a small model takes, much goes to Python and to the dispatch of a hundred operations.
torch.compile would save little of it: its guards and wrappers take as long. So the operations are written down as they
run, those of autograd among them, and TorchInductor makes one function of the list.
"""

import logging
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx import Graph, GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx

from vae.config.schema import Compile
from vae.errors import UserError

log = logging.getLogger(__name__)
logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # which warns that there is no GPU


# From so many on, the 15 s that a CPU takes to compile the first time on a machine are earned back.
STEPS = 10_000  # each 1.5 ms shorter
DRAWS = 10_000_000  # each 1.5 us shorter

T = TypeVar("T")


def tanh(x: Tensor) -> Tensor:
    """Within 2e-7. TorchInductor's own takes three times as long on a CPU."""
    return 2 * torch.sigmoid(2 * x) - 1


DECOMPOSITIONS: dict[Any, Callable[..., Tensor]] = {torch.ops.aten.tanh.default: tanh}


def check_compiler() -> None:
    """Raise UserError where there is no C++ compiler, or none that runs."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except (InvalidCxxCompiler, OSError):
        raise UserError("no C++ compiler was found; expected g++ (on macOS clang++), or CXX to name another") from None


def try_compile(make: Callable[[], T], asked: Compile) -> T | None:
    """What `make` compiles. Where it cannot, raise UserError if that was asked for; else None, and a line says why."""
    try:
        check_compiler()
        return make()
    except Exception as error:  # noqa: BLE001 (of the compiler, of torch, and of what no list of operations can hold)
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        told = next((line for line in lines if "error:" in line), lines[0])
    if asked is True:
        raise UserError(f"compile=true: {told}")
    log.info(f"compile=auto: {told}; it goes on without")
    return None


def trainable_parameters(module: nn.Module) -> list[Tensor]:
    """The parameters that are learned, as tensors without a gradient that change as they do."""
    return [parameter.detach() for parameter in module.parameters() if parameter.requires_grad]


def trace_step(module: nn.Module, x: Tensor) -> GraphModule:
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
        return make_fx(step, DECOMPOSITIONS)(x, x.new_ones(()), *trainable_parameters(module))


def function(graph: GraphModule, given: list[Any], **options: bool) -> Callable[..., Any]:
    """What TorchInductor makes of a graph, for tensors like those given."""
    import torch._inductor

    log.info("compiling; some seconds, and more the first time on this machine")
    return torch._inductor.compile(graph, given, options={"fallback_random": True, **options})


class CompiledStep:
    """The steps of `module` on images of the shape of x, as one function.

    Random numbers are those that `module` itself would draw; all else is right to rounding.
    """

    def __init__(self, module: nn.Module, x: Tensor) -> None:
        self.shape = x.shape
        self.parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self.values = trainable_parameters(module)
        given = [x.contiguous(), x.new_ones(()), *self.values]
        self.run = function(trace_step(module, given[0]), given)

    @torch.no_grad()
    def differentiate(self, x: Tensor, weight: float | Tensor) -> Tensor:
        """Set the gradients of the parameters; the sums."""
        sums, *gradients = self.run(
            x.contiguous(), torch.as_tensor(weight, dtype=x.dtype, device=x.device), *self.values
        )
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            # a fused optimiser takes it for granted that a gradient lies in memory as its parameter does
            parameter.grad = None if gradient is None else gradient.contiguous()
        return sums


def split_graph(graph: GraphModule) -> tuple[GraphModule, GraphModule]:
    """Of a graph of x, what depends on x alone, and what on random numbers too: graph(x) = rest(*first(x)).

    What is drawn must not be written into what depends on x alone.
    """
    nodes = list(graph.graph.nodes)
    of_x: set[Node] = set()
    drawn: set[Node] = set()
    for node in nodes:
        sources = set(node.all_input_nodes)
        if node.op == "placeholder" or sources & of_x:
            of_x.add(node)
        if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()) or sources & drawn:
            drawn.add(node)
    known = of_x - drawn - {nodes[-1]}
    passed = [node for node in nodes if node in known and set(node.users) - known]
    first, rest = Graph(), Graph()
    at_first: dict[Node, Node] = {}
    at_rest = {node: rest.placeholder(node.name) for node in passed}
    for node in nodes[:-1]:
        if node not in drawn:
            at_first[node] = first.node_copy(node, at_first.__getitem__)
        if node not in known:
            at_rest[node] = rest.node_copy(node, at_rest.__getitem__)
    first.output([at_first[node] for node in passed])
    rest.node_copy(nodes[-1], at_rest.__getitem__)
    for part in (first, rest):
        part.eliminate_dead_code()
    return GraphModule(graph, first), GraphModule(graph, rest)


class CompiledDraws:
    """work(x, k), with k draws for each image, as a function to be called many times for images of the shape of x.

    What in it depends on no random number is computed once for the same images. Parameters are constants. Random
    numbers are those that `work` would draw; all else is right to rounding.
    """

    def __init__(self, work: Callable[[Tensor, int], Tensor], x: Tensor, k: int) -> None:
        self.shape = (k, *x.shape)
        x = x.contiguous()
        with torch.random.fork_rng(), torch.no_grad():
            self.first, rest = split_graph(make_fx(lambda x: [work(x, k)], DECOMPOSITIONS)(x))
            self.run = function(rest, self.first(x), freezing=True)

    def bind(self, x: Tensor) -> Callable[[], Tensor]:
        """Calls of work(x, k)."""
        known = self.first(x.contiguous())
        return lambda: self.run(*known)[0]
