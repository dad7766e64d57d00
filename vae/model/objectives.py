"""Training objectives, to be maximised.

An objective is a function of `Terms` and of a weight, which may change during training. It returns one value per image,
(B,). It also defines K, the number of samples per image, and the names of the terms to log.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vae.errors import UserError
from vae.model.vae import VAE, Terms, can_detach, detached, kl_per_group


@dataclass
class Objective(ABC):
    """Base class. `curves` are the terms that are logged and shown, `details` those that are logged only."""

    K: int
    curves: ClassVar[tuple[str, ...]] = ("elbo", "kl", "log_likelihood")
    details: ClassVar[tuple[str, ...]] = ()

    def weight(self, _progress: float) -> float:
        """Return the weight at `progress`, the completed fraction of training, in [0, 1]. By default, it is 1."""
        return 1.0

    def terms(self, vae: VAE, x: Tensor, _N: int) -> Terms:
        """Return the terms of images x, (B, C, H, W), drawn from N training images.

        A subclass may return a subclass of `Terms` with terms of its own, (B,) or (), which it can log.
        """
        return vae.terms(x, self.K)

    @abstractmethod
    def __call__(self, terms: Terms, weight: float | Tensor) -> Tensor:
        """Return the objective of each image, (B,)."""


class ELBO(Objective):
    """Evidence lower bound, estimated from K samples (Kingma & Welling 2013, sec. 2.3)."""

    def __call__(self, terms: Terms, _weight: float | Tensor) -> Tensor:
        return terms.elbo


@dataclass
class Beta(Objective):
    """ELBO with the KL multiplied by beta (Higgins et al. 2017). Beta can have a schedule (Bowman et al. 2016)."""

    beta: float
    schedule: Callable[[float], float]

    def weight(self, progress: float) -> float:
        return self.beta * self.schedule(progress)

    def __call__(self, terms: Terms, weight: float | Tensor) -> Tensor:
        return terms.log_likelihood - weight * terms.kl


@dataclass
class Capacity(Objective):
    """E_q[log p(x|z)] - gamma |KL - C| for each image, with C scheduled up to `capacity` nats (Burgess et al. 2018)."""

    gamma: float
    capacity: float
    schedule: Callable[[float], float]

    def weight(self, progress: float) -> float:
        return self.capacity * self.schedule(progress)

    def __call__(self, terms: Terms, weight: float | Tensor) -> Tensor:
        return terms.log_likelihood - self.gamma * (terms.kl - weight).abs()


def whole_batch(values: Tensor) -> Tensor:
    """Return the rows of the whole batch, given those of this process, (b, D) -> (B, D). In one process, b is B.

    In distributed training, only the rows of this process have a gradient. It is multiplied by B/b, so that the mean of
    the gradients over the processes, each with its weight b/B, is the gradient for the whole batch.
    """
    if not torch.distributed.is_initialized():
        return values
    sizes = values.new_zeros(torch.distributed.get_world_size())
    sizes[torch.distributed.get_rank()] = len(values)
    torch.distributed.all_reduce(sizes)
    ends = sizes.long().cumsum(0).tolist()
    rows = slice(ends[torch.distributed.get_rank()] - len(values), ends[torch.distributed.get_rank()])
    batch = values.new_zeros(ends[-1], values.shape[1])
    batch[rows] = values.detach()
    torch.distributed.all_reduce(batch)
    batch[rows] += (values - values.detach()) * (ends[-1] / len(values))
    return batch


@dataclass
class FreeBits(Objective):
    """ELBO in which the batch mean of each latent unit's KL counts at least `free_bits` nats (Kingma et al. 2016).

    In a hierarchy, the KL of each group of n units counts at least n `free_bits` nats; if there is no closed form, that
    of all units together. Below the free bits, the KL has no gradient for q(z|x); a learned prior p(z) is still fitted
    to q(z|x).
    """

    free_bits: float

    def __call__(self, terms: Terms, _weight: float | Tensor) -> Tensor:
        free_bits, per_group = self.free_bits, kl_per_group(terms.q_z, terms.p_z)
        if per_group is None:  # one group of all units
            free_bits *= terms.z.shape[-1]
            per_group = terms.kl.unsqueeze(-1), -terms.p_z.log_prob(terms.z.detach()).mean(0).unsqueeze(-1)
        kl, fit = (whole_batch(values).mean(0) for values in per_group)  # (D,) or (1,)
        return terms.log_likelihood - torch.where(kl > free_bits, kl, free_bits + fit - fit.detach()).sum()


class IWAE(Objective):
    """Importance weighted bound log 1/K sum_k w_k (Burda et al. 2016)."""

    def __call__(self, terms: Terms, _weight: float | Tensor) -> Tensor:
        return terms.log_w.logsumexp(0) - math.log(len(terms.log_w))


class DReG(IWAE):
    """`IWAE` with the doubly reparameterised gradient estimator for q (Tucker et al. 2019).

    In the gradients of decoder and prior, sample k has the weight w_k / sum w. The gradient of q goes through z only,
    and sample k has the square of this weight. A hook on z applies the second factor, so do not use the same terms for
    another objective. Raises UserError if q(z|x) is not a Gaussian.
    """

    def __call__(self, terms: Terms, weight: float | Tensor) -> Tensor:
        bound = super().__call__(terms, weight)
        if not terms.z.requires_grad:
            return bound
        if not can_detach(terms.q_z):
            raise UserError("objective=dreg: q(z|x) must be a Gaussian; expected posterior=diagonal_gaussian")
        weights = terms.log_w.detach().softmax(0)  # (K, B)
        terms.z.register_hook(lambda gradient: gradient * weights.unsqueeze(-1))
        log_w = terms.log_px_z + terms.log_pz - detached(terms.q_z).log_prob(terms.z)
        surrogate = (weights * log_w).sum(0)
        return bound.detach() + surrogate - surrogate.detach()


class Autoencoder(Objective):
    """Negative squared error, summed over pixels. It is not a likelihood or a bound."""

    curves: ClassVar[tuple[str, ...]] = ("squared_error",)

    def __call__(self, terms: Terms, _weight: float | Tensor) -> Tensor:
        return -terms.squared_error
