"""The variational autoencoder and its evidence lower bound (Kingma & Welling 2013).

Shapes: K samples per image, B images, D latent dimensions, and (C, H, W) for one image. All log-densities are in nats.
A conditional model has labels y, (B, labels), which are one-hot. `VAE.given` binds them: then p(z|y), p(x|z, y) and
q(z|x, y) have the names of p(z), p(x|z) and q(z|x), and log p(x) is log p(x|y).
"""

from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass
from functools import cached_property, singledispatch
from typing import Any, Self, TypeGuard

from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal, kl_divergence

from vae.model.likelihoods import Likelihood


def can_detach(q: Distribution) -> TypeGuard[Independent]:
    """Return whether q has independent units, made from parameters that `arg_constraints` of their class names."""
    return isinstance(q, Independent) and bool(q.base_dist.arg_constraints)


def detached(q: Independent) -> Independent:
    """Return q(z|x) with detached parameters, so that gradients of its log-density reach z only."""
    units: Any = q.base_dist
    parameters = {name: getattr(units, name).detach() for name in units.arg_constraints}
    return Independent(type(units)(**parameters, validate_args=False), 1, validate_args=False)


def is_gaussian(q: Distribution) -> bool:
    """Return whether q has independent Gaussian units."""
    return isinstance(q, Independent) and isinstance(q.base_dist, Normal)


def kl_per_unit(q: Distribution, p: Distribution) -> Tensor | None:
    """Return KL(q(z_d|x) || p(z_d)), (B, D), if q and p have independent units and torch has a closed form."""
    if not (isinstance(q, Independent) and isinstance(p, Independent)):
        return None
    try:
        return kl_divergence(q.base_dist, p.base_dist)
    except NotImplementedError:
        return None


@singledispatch
def kl_per_group(_q: Distribution, _p: Distribution) -> tuple[Tensor, Tensor] | None:
    """Return the KL of each group of latent units, divided equally among its units, (B, D), and the same for p(z) only.

    A unit that is independent of the others is a group of its own. The second tensor has the values of the first, and
    no gradient for q(z|x). Returns None if torch has no closed form.
    """
    return None


@kl_per_group.register
def _(q: Independent, p: Distribution) -> tuple[Tensor, Tensor] | None:
    if not can_detach(q):
        return None
    kl, fit = kl_per_unit(q, p), kl_per_unit(detached(q), p)
    return None if kl is None or fit is None else (kl, fit)


@singledispatch
def low_variance_log_q(q: Distribution, z: Tensor) -> Tensor:
    """Return log q(z|x), (K, B), or a term with the same mean and mean gradient over z ~ q(z|x), and less noise."""
    return q.log_prob(z)


@low_variance_log_q.register
def _(q: Independent, z: Tensor) -> Tensor:
    """The gradient that reaches the parameters directly is 0 in the mean. It is left out (Roeder et al. 2017)."""
    return (detached(q) if can_detach(q) else q).log_prob(z)


@dataclass(frozen=True)
class Terms:
    """The terms of the ELBO for B images, with K samples z per image. Objectives and estimators use them."""

    x: Tensor  # (B, C, H, W)
    z: Tensor  # (K, B, D), samples of q(z|x)
    q_z: Distribution  # q(z|x), batch shape (B,)
    p_z: Distribution  # p(z)
    p_x: Distribution  # p(x|z), batch shape (K, B)

    @cached_property
    def log_px_z(self) -> Tensor:
        """log p(x|z), (K, B)."""
        return self.p_x.log_prob(self.x)

    @cached_property
    def log_pz(self) -> Tensor:
        """log p(z), (K, B)."""
        return self.p_z.log_prob(self.z)

    @cached_property
    def log_qz_x(self) -> Tensor:
        """log q(z|x), (K, B)."""
        return self.q_z.log_prob(self.z)

    @property
    def log_w(self) -> Tensor:
        """Log importance weight log w = log p(x|z) + log p(z) - log q(z|x), (K, B). Its expectation is the ELBO."""
        return self.log_px_z + self.log_pz - self.log_qz_x

    @cached_property
    def log_likelihood(self) -> Tensor:
        """E_q[log p(x|z)], estimated by the mean over the K samples, (B,)."""
        return self.log_px_z.mean(0)

    @cached_property
    def kl(self) -> Tensor:
        """KL(q(z|x) || p(z)), (B,): in closed form if torch has one (app. B), else the mean over the K samples.

        `TwoLayers` samples z2 itself: with this prior, the value is KL(q(z, z2|x) || p(z, z2)).
        """
        try:
            return kl_divergence(self.q_z, self.p_z)
        except NotImplementedError:
            return (low_variance_log_q(self.q_z, self.z) - self.log_pz).mean(0)

    @property
    def squared_error(self) -> Tensor:
        """E_q[(x - E[x|z])^2], summed over pixels and channels, (B,)."""
        return (self.p_x.mean - self.x).square().sum((-3, -2, -1)).mean(0)

    @cached_property
    def elbo(self) -> Tensor:
        """The evidence lower bound on log p(x), (B,) (Kingma & Welling 2013, sec. 2.2)."""
        return self.log_likelihood - self.kl


class VAE(nn.Module):
    """The prior p(z), the decoder and likelihood p(x|z), and the encoder and posterior q(z|x).

    A semi-supervised model also has a classifier, q(y|x). In training, `noise` changes the images that are encoded.
    """

    def __init__(
        self,
        encoder: nn.Module,
        posterior: nn.Module,
        decoder: nn.Module,
        likelihood: Likelihood,
        prior: nn.Module,
        classifier: nn.Module | None = None,
        noise: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.posterior = posterior
        self.decoder = decoder
        self.likelihood = likelihood
        self.prior = prior
        self.classifier = classifier
        self.noise = noise or nn.Identity()
        self.y: tuple[Tensor, ...] = ()  # the labels that a conditional model is given

    def given(self, *y: Tensor) -> Self:
        """Return this model given labels y, (B, labels), with the same parameters; without labels, itself."""
        if not y:
            return self
        model = copy(self)
        model.y = y
        return model

    def batches(self, size: int, x: Tensor, *y: Tensor) -> Iterator[tuple[Self, Tensor]]:
        """Split images or latents x, (N, ...), and labels y, (N, labels) or (1, labels), into batches of `size`.

        Yields the model given the labels of a batch, and its images, on the device of the model.
        """
        device = next(self.parameters()).device
        for parts in zip(*(part.expand(len(x), *part.shape[1:]).split(size) for part in (x, *y)), strict=True):
            batch, *labels = (part.to(device) for part in parts)
            yield self.given(*labels), batch

    def q(self, x: Tensor, *y: Tensor) -> Distribution:
        """Return q(z|x), or q(z|x, y), for images x, (B, C, H, W), without `noise`."""
        return self.posterior(self.encoder(x, *y))

    def log_qy_x(self, x: Tensor) -> Tensor:
        """Return log q(y|x) of images x, (B, C, H, W), for each label, (B, labels), in a semi-supervised model."""
        assert self.classifier
        return self.classifier(self.noise(x)).log_softmax(-1)

    def q_z(self, x: Tensor) -> Distribution:
        """Return q(z|x) for images x, (B, C, H, W), with `noise` in training, given this model's labels."""
        return self.q(self.noise(x), *self.y)

    def p_z(self) -> Distribution:
        """Return p(z)."""
        return self.prior(self.q, *self.y)

    def p_x(self, z: Tensor) -> Distribution:
        """Return p(x|z) for latents z, (..., D); in a conditional model, (..., B, D) for B labels."""
        return self.likelihood(self.decoder(z, *self.y))

    def decode(self, z: Tensor, candidates: int = 1) -> Tensor:
        """Decode latents z, (..., D), to images for display, (..., C, H, W), in [0, 1].

        If their pixels are sampled, each is the one of `candidates` images whose encoding is closest to z.
        """
        images = self.likelihood.candidate_images(self.p_x(z), candidates)
        if len(images) == 1:
            return images[0]
        y = (labels.expand(*images.shape[:-3], -1).flatten(0, -2) for labels in self.y)
        encodings = self.q(images.flatten(0, -4), *y).mean.unflatten(0, images.shape[:-3])
        closest = (encodings - z).square().sum(-1).argmin(0)
        return images.take_along_dim(closest[None, ..., None, None, None], 0)[0]

    def draft(self, z: Tensor, previous: Tensor) -> Tensor:
        """Approximate `decode` in less time, given the images, (..., C, H, W), of other latents close to z."""
        return self.likelihood.draft_image(self.p_x(z), previous)

    def terms(self, x: Tensor, K: int = 1) -> Terms:
        """Sample z_k ~ q(z|x), k = 1..K, with separate noise for each image (sec. 2.4), and return their terms."""
        return self.sample_terms(x, self.q_z(x), self.p_z(), K)

    def sample_terms(self, x: Tensor, q_z: Distribution, p_z: Distribution, K: int) -> Terms:
        """Return the `terms` of images x, given their q(z|x) and p(z)."""
        z = q_z.rsample((K,))
        return Terms(x, z, q_z, p_z, self.p_x(z))
