"""What training maximises: of Terms, and of a weight that may change over the run, one value per image, (B,).

An objective says how many samples K it wants of each image, and which of the terms are the `curves` of its runs.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Independent, Normal, kl_divergence

from vae.errors import UserError
from vae.model.vae import Terms


@dataclass
class Objective(ABC):
    """What all share."""

    K: int
    curves: ClassVar[tuple[str, ...]] = ("elbo", "kl", "log_likelihood")

    def weight(self, _done: float) -> float:
        """The weight, when this part of the run is done, in [0, 1]. Here, none is needed."""
        return 1.0

    @abstractmethod
    def __call__(self, terms: Terms, weight: float | Tensor) -> Tensor:
        """The value for each image, (B,)."""


class ELBO(Objective):
    """The evidence lower bound, from the mean of K samples (Kingma & Welling 2013, sec. 2.3)."""

    def __call__(self, terms: Terms, _weight: float | Tensor) -> Tensor:
        return terms.elbo


@dataclass
class Beta(Objective):
    """The ELBO with its KL times beta (Higgins et al. 2017), which may have a schedule (Bowman et al. 2016)."""

    beta: float
    schedule: Callable[[float], float]

    def weight(self, done: float) -> float:
        return self.beta * self.schedule(done)

    def __call__(self, terms: Terms, weight: float | Tensor) -> Tensor:
        return terms.log_likelihood - weight * terms.kl


@dataclass
class Capacity(Objective):
    """E_q[log p(x|z)] - gamma |KL - C|, of each image, with C rising to `capacity` nats (Burgess et al. 2018)."""

    gamma: float
    capacity: float
    schedule: Callable[[float], float]

    def weight(self, done: float) -> float:
        return self.capacity * self.schedule(done)

    def __call__(self, terms: Terms, weight: float | Tensor) -> Tensor:
        return terms.log_likelihood - self.gamma * (terms.kl - weight).abs()


def batch_mean(values: Tensor) -> Tensor:
    """The mean over the images of a batch, (B, D) -> (D,).

    Where several processes have a part of it each, this is the mean over all, with the gradient of that over the part.
    """
    mean = values.mean(0)
    if not torch.distributed.is_initialized():
        return mean
    sums = torch.cat([values.detach().sum(0), values.new_tensor([len(values)])])
    torch.distributed.all_reduce(sums)
    return mean + (sums[:-1] / sums[-1] - mean).detach()


@dataclass
class FreeBits(Objective):
    """The ELBO in which no unit's KL, in the mean of the batch, counts less than `free_bits` (Kingma et al. 2016)."""

    free_bits: float

    def __call__(self, terms: Terms, _weight: float | Tensor) -> Tensor:
        q, p = terms.q_z, terms.p_z
        if not (isinstance(q, Independent) and isinstance(p, Independent)):
            needed = "posterior=diagonal_gaussian and prior=standard_normal"
            raise UserError(f"objective=free_bits: the KL of single units has no closed form; expected {needed}")
        units = kl_divergence(q.base_dist, p.base_dist)  # (B, D)
        return terms.log_likelihood - batch_mean(units).clamp(min=self.free_bits).sum()


class IWAE(Objective):
    """log 1/K sum_k w_k (Burda et al. 2016)."""

    def __call__(self, terms: Terms, _weight: float | Tensor) -> Tensor:
        return terms.log_w.logsumexp(0) - math.log(len(terms.log_w))


class DReG(IWAE):
    """The bound of `IWAE`, whose gradient for q is doubly reparameterised (Tucker et al. 2019).

    That of p and of the decoder weighs sample k by w_k / sum w; that of q, which comes through z alone, by its square:
    from here on a gradient that reaches z is weighed once more, so the terms serve no second objective.
    """

    def __call__(self, terms: Terms, weight: float | Tensor) -> Tensor:
        bound = super().__call__(terms, weight)
        if not terms.z.requires_grad:
            return bound
        weights = terms.log_w.detach().softmax(0)  # (K, B)
        terms.z.register_hook(lambda gradient: gradient * weights.unsqueeze(-1))
        log_w = terms.log_px_z + terms.log_pz - detached_posterior(terms).log_prob(terms.z)
        surrogate = (weights * log_w).sum(0)
        return bound.detach() + surrogate - surrogate.detach()


def detached_posterior(terms: Terms) -> Independent:
    """q(z|x) with its parameters held, so that its density moves with z alone."""
    q = terms.q_z
    if not isinstance(q, Independent):
        raise UserError("objective=dreg: a flow has no density to hold; expected posterior=diagonal_gaussian")
    normal = Normal(q.base_dist.loc.detach(), q.base_dist.scale.detach(), validate_args=False)
    return Independent(normal, 1, validate_args=False)


class Autoencoder(Objective):
    """Minus the squared error, summed over pixels: neither a likelihood nor a bound on one."""

    curves: ClassVar[tuple[str, ...]] = ("squared_error",)

    def __call__(self, terms: Terms, _weight: float | Tensor) -> Tensor:
        return -terms.squared_error
