"""Checks before a training: whether each part of a model returns what the others need, and suits the images.

The parts may be classes of the user. Shapes: K samples, B images of (C, H, W), D latent dimensions.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from datamodules.base import ImageDataModule
from vae.errors import UserError, one_line
from vae.model.likelihoods import Likelihood
from vae.model.sampling import sample_prior
from vae.training.lightning_module import VAEModule


def check_support(module: VAEModule, data: ImageDataModule, cfg: DictConfig) -> None:
    """Raise UserError if pixels of the dataset are outside the support of the likelihood, or if it has none."""
    likelihood: Any = module.vae.likelihood
    support = getattr(likelihood, "support", None)
    if not isinstance(support, constraints.Constraint):
        expected = "expected one of torch.distributions.constraints, or Levels"
        raise UserError(f"likelihood: {type(likelihood).__name__}.support is {support}; {expected}")
    if not support.check(data.x("val")).all():
        raise UserError(
            f"likelihood: {type(likelihood).__name__} is not defined for pixels with dataset.binarize="
            f"{cfg.dataset.binarize}; expected a likelihood for them, or likelihood=auto, which chooses one"
        )


def optimizer_step(module: VAEModule) -> None:
    """Take a step of a new optimizer with one parameter."""
    parameter = nn.Parameter(torch.zeros(1))
    parameter.grad = torch.zeros(1)
    optimizer = module.optimizer([parameter])
    for group in optimizer.param_groups:
        group["capturable"] = False  # which only parameters on a GPU support
    optimizer.step()


def check_keys(module: VAEModule) -> None:
    """Raise UserError if the class of the optimizer or of a schedule does not accept a key or its value."""
    for key, call in {
        "objective.schedule": lambda: module.objective.weight(0.0),
        "optimizer": lambda: optimizer_step(module),
        "optimizer.schedule": lambda: module.schedule(0.0),
    }.items():
        try:
            call()
        except (TypeError, ValueError, RuntimeError) as error:
            # An experiment may have set a key that the class chosen instead does not have.
            hint = f"; ~{key}.KEY removes a key" if "unexpected keyword argument" in str(error) else ""
            raise UserError(f"{key}: {one_line(error)}{hint}") from None


def result(key: str, call: Callable[[], Any], missing: str = "") -> Any:
    """Return call(). Raises UserError if it gets other arguments than it takes, or if its class lacks this method."""
    try:
        return call()
    except (TypeError, NotImplementedError) as error:
        raise UserError(f"{key}: {one_line(error) or f'its distribution has no {missing}'}") from None


def check_shape(key: str, given: Any, expected: tuple[int, ...]) -> None:
    """Raise UserError if a part did not return a tensor of this shape."""
    if not isinstance(given, Tensor) or given.shape != expected:
        found = f"the shape {tuple(given.shape)}" if isinstance(given, Tensor) else f"a {type(given).__name__}"
        raise UserError(f"{key}: it returned {found}; expected a tensor of the shape {expected}")


def check_distribution(key: str, given: Any, batches: Sequence[tuple[int, ...]], event: tuple[int, ...]) -> None:
    """Raise UserError if a part did not return a distribution with one of these batch shapes and this event shape."""
    if not isinstance(given, Distribution):
        raise UserError(f"{key}: it returned a {type(given).__name__}; expected a distribution")
    if tuple(given.batch_shape) not in batches or given.event_shape != event:
        found = f"the batch shape {tuple(given.batch_shape)} and the event shape {tuple(given.event_shape)}"
        expected = (
            f"{' or '.join(map(str, batches))} and {event}; Independent(..., {len(event)}) makes event dimensions"
        )
        raise UserError(f"{key}: it returned a distribution with {found}; expected {expected}")


def check_finite(key: str, values: Tensor) -> None:
    """Raise UserError if the mean of a distribution, or samples computed from it, are not finite numbers."""
    if not values.isfinite().all():
        raise UserError(f"{key}: the mean of its distribution is not finite; a subclass can return its mode as `mean`")


def check_parts(module: VAEModule, data: ImageDataModule, D: int) -> None:
    """Raise UserError if parts cannot be combined, or if one does not return what the others need."""
    K, x, y = 3, data.x("val", slice(2)), data.y("val", slice(2))
    vae, objective, B, (C, H, W) = module.vae.given(*y), module.objective, len(x), data.shape
    with torch.random.fork_rng():
        outputs = result("architecture.encoder", lambda: vae.encoder(x, *y))
        q_z = result("posterior", lambda: vae.posterior(outputs))
        check_distribution("posterior", q_z, [(B,)], (D,))
        z = result("posterior", lambda: q_z.rsample((K,)), "rsample")
        check_finite("posterior", result("posterior", lambda: q_z.mean, "mean"))
        p_z = result("prior", vae.p_z)
        check_distribution("prior", p_z, [(), (B,)], (D,))
        check_finite("prior", result("prior", lambda: sample_prior(p_z, B, temperature=0.5), "sample or mean"))
        h = result("architecture.decoder", lambda: vae.decoder(z, *y))
        if type(vae.likelihood).wrap_decoder is Likelihood.wrap_decoder:  # otherwise its outputs are of any shape
            check_shape("architecture.decoder", h, (K, B, vae.likelihood.h_channels(C), H, W))
        check_distribution("likelihood", result("likelihood", lambda: vae.likelihood(h)), [(K, B)], (C, H, W))
        terms = objective.terms(vae, x, module.N)
        check_shape("objective", result("objective", lambda: objective(terms, 1.0)), (B,))
