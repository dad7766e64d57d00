"""A hierarchy of latents, from small to large feature maps, with top-down inference (Sonderby et al. 2016).

Shapes: N images, D latent dimensions, (C, H, W) one image. The latents are L groups, of the smallest feature map first:
a group has the same number of channels at each position of its map. p(z_l | z_<l) = N(mu_l, sigma_l^2) is written as
mu_l + sigma_l eps_l. The latents of this model are eps = (eps_1, ..., eps_L) with the prior N(0, I): mu_l and sigma_l
belong to the decoder. q(eps_l | eps_<l, x) is a Gaussian, so its KL does not change, and q is relative to p, as in
NVAE (Vahdat & Kautz 2020). In a conditional model, labels y, (N, labels), change the features before the first group,
so p(z_l | z_<l, y), p(x|z, y) and q(eps_l | eps_<l, x, y) depend on them.
"""

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, constraints, kl_divergence
from torch.distributions.kl import register_kl

from vae.errors import UserError
from vae.model.networks import (
    ACTIVATIONS,
    ResidualBlock,
    UpsampleBlock,
    downsampled_sizes,
    kaiming_init,
    with_labels,
)
from vae.model.posteriors import DiagonalNormal, Posterior, soft_clamp
from vae.model.vae import kl_per_group


class LadderEncoder(nn.Module):
    """Bottom-up network: x (B, C, H, W) -> one feature map for each group, flattened and concatenated, (B, F).

    One strided convolution and one residual block for each entry of `channels` halve the feature maps. The last
    `groups` of them are mapped to `outputs` channels each.
    """

    def __init__(
        self, shape: tuple[int, int, int], outputs: int, channels: Sequence[int], groups: int, activation: str
    ) -> None:
        super().__init__()
        if groups > len(channels):
            raise UserError(
                f"architecture.encoder.groups={groups}: expected at most {len(channels)}, the number of "
                "architecture.encoder.channels"
            )
        act = ACTIVATIONS[activation]
        self.levels = nn.ModuleList(
            nn.Sequential(nn.Conv2d(n_in, n_out, 3, stride=2, padding=1), ResidualBlock(n_out, activation), act())
            for n_in, n_out in pairwise([shape[0], *channels])
        )
        self.heads = nn.ModuleList(nn.Conv2d(n, outputs, 1) for n in channels[-groups:])
        kaiming_init(self)

    def forward(self, x: Tensor) -> Tensor:
        maps = []
        for level in self.levels:
            x = level(x)
            maps.append(x)
        features = [head(a) for head, a in zip(self.heads, maps[-len(self.heads) :], strict=True)]
        return torch.cat([a.flatten(1) for a in reversed(features)], 1)


class Group(nn.Module):
    """One group of latents: features d (N, width, h, w) and eps (N, channels, h, w) -> features (N, width, h, w)."""

    def __init__(self, width: int, channels: int, activation: str) -> None:
        super().__init__()
        self.before, self.after = (ResidualBlock(width, activation) for _ in range(2))
        self.p = nn.Conv2d(width, 2 * channels, 1)
        self.inject = nn.Conv2d(channels, width, 1)

    def forward(self, d: Tensor, eps: Tensor) -> Tensor:
        mean, log_var = self.p(d).chunk(2, 1)
        z = mean + (soft_clamp(log_var) / 2).exp() * eps
        return self.after(d + self.inject(z))


class LadderDecoder(nn.Module):
    """Top-down network: latents eps (..., D) -> h (..., h_channels, H, W). Its levels mirror those of the encoder.

    With `labels`, the last of the `latent_dim` inputs are the one-hot label. Raises UserError if the number of latents
    is not a multiple of the number of positions of the groups.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        h_channels: int,
        latent_dim: int,
        channels: Sequence[int],
        groups: int,
        activation: str,
        labels: int = 0,
    ) -> None:
        super().__init__()
        self.latents = latent_dim - labels
        sizes = downsampled_sizes(shape, len(channels))
        positions = sum(height * width for height, width in sizes[-groups:])
        if self.latents % positions:
            raise UserError(
                f"latent_dim={self.latents}: expected a multiple of {positions}, the number of positions of the "
                f"{groups} groups"
            )
        self.group_shapes = [(self.latents // positions, *size) for size in reversed(sizes[-groups:])]
        self.widths = list(reversed(channels[-groups:]))  # of the features of each group
        self.start = nn.Parameter(torch.zeros(channels[-1], *sizes[-1]))
        self.embedding = nn.Linear(labels, self.start.numel(), bias=False) if labels else None
        self.groups = nn.ModuleList(Group(width, self.group_shapes[0][0], activation) for width in self.widths)
        self.ups = nn.ModuleList(
            nn.Sequential(ACTIVATIONS[activation](), UpsampleBlock(n_in, n_out, size))
            for n_in, n_out, size in reversed(list(zip(channels, [h_channels, *channels], sizes, strict=False)))
        )
        kaiming_init(self)
        for group in self.groups:
            nn.init.zeros_(group.p.weight)  # type: ignore[union-attr, arg-type]

    def top_down(self, y: Tensor, latents_of: Callable[[int, Tensor], Tensor]) -> Tensor:
        """Return the features of n images after the last group, given labels y, (n, labels); (n, 0) without labels.

        `latents_of` returns eps_l, (n, channels, h, w), for l and the features of group l, (n, width, h, w).
        """
        d = self.start.expand(y.shape[0], *self.start.shape)  # len(y) would be a constant in an export
        if self.embedding is not None:
            d = d + self.embedding(y).unflatten(1, self.start.shape)
        for i, group in enumerate(self.groups):
            d = self.ups[i - 1](d) if i else d
            d = group.before(d)  # type: ignore[operator]
            d = group(d, latents_of(i, d))
        return d

    def split(self, eps: Tensor) -> list[Tensor]:
        """Split latents (N, D) into those of each group, (N, channels, h, w)."""
        sizes = [torch.Size(shape).numel() for shape in self.group_shapes]
        return [part.unflatten(1, shape) for part, shape in zip(eps.split(sizes, 1), self.group_shapes, strict=True)]

    def forward(self, z: Tensor) -> Tensor:
        eps, y = z.flatten(0, -2).tensor_split([self.latents], 1)
        groups = self.split(eps)
        d = self.top_down(y, lambda i, _: groups[i])
        for up in self.ups[len(self.groups) - 1 :]:
            d = up(d)
        return d.unflatten(0, z.shape[:-1])


class LadderDistribution(Distribution):
    """q(eps|x) = prod_l q(eps_l | eps_<l, x), given the encoder's features of each group, (B, outputs, h, w).

    It is also given labels y, (B, labels), or (B, 0) without labels. Its KL is estimated from the latest sample: that
    of each group is in closed form, given the groups above it.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self, decoder: LadderDecoder, q: nn.ModuleList, features: Sequence[Tensor], y: Tensor, latent_dim: int
    ) -> None:
        self.decoder, self.q, self.features, self.y = decoder, q, features, y
        self.latest: tuple[Tensor, DiagonalNormal] | None = None  # a sample, and q(eps_l | eps_<l, x) of all l given it
        super().__init__(features[0].shape[:1], torch.Size([latent_dim]), validate_args=False)

    def _walk(self, K: int, choose: Callable[[int, DiagonalNormal], Tensor]) -> tuple[Tensor, DiagonalNormal]:
        """Return eps, (K, B, D), which `choose` takes from each q(eps_l | eps_<l, x), and these Gaussians of all l."""
        groups = []

        def latents_of(i: int, d: Tensor) -> Tensor:
            features = self.features[i].expand(K, *self.features[i].shape).flatten(0, 1)
            mean, log_var = (part.flatten(1) for part in self.q[i](torch.cat([d, features], 1)).chunk(2, 1))
            eps = choose(i, DiagonalNormal(mean, log_var))
            groups.append((eps, mean, log_var))
            return eps.unflatten(1, self.decoder.group_shapes[i])

        self.decoder.top_down(self.y.repeat(K, 1), latents_of)
        eps, mean, log_var = (torch.cat(parts, 1).unflatten(0, (K, -1)) for parts in zip(*groups, strict=True))
        return eps, DiagonalNormal(mean, log_var)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        K = torch.Size(sample_shape).numel()
        eps, q = self._walk(K, lambda _, q: q.rsample())
        self.latest = eps if sample_shape else eps[0], q
        return self.latest[0]

    @property
    def given_sample(self) -> DiagonalNormal:
        """q(eps_l | eps_<l, x) of all groups, given the latest sample or, if there is none, a new one, (K, B, D)."""
        if self.latest is None:
            self.rsample((1,))
        assert self.latest
        return self.latest[1]

    @property
    def mean(self) -> Tensor:
        """The mean of each q(eps_l | eps_<l, x), given the means of the groups above it, (B, D)."""
        return self._walk(1, lambda _, q: q.mean)[0][0]

    def log_prob(self, value: Tensor) -> Tensor:
        if self.latest is not None and value is self.latest[0]:
            return self.latest[1].log_prob(value).reshape(value.shape[:-1])
        K = value.shape[:-2].numel()
        groups = [
            part.flatten(1)
            for part in self.decoder.split(value.expand(*value.shape[:-2], *self.batch_shape, -1).flatten(0, -2))
        ]
        eps, q = self._walk(K, lambda i, _: groups[i])
        return q.log_prob(eps).reshape(value.shape[:-1])


@register_kl(LadderDistribution, Distribution)
def kl_of_ladder(q: LadderDistribution, p: Distribution) -> Tensor:
    """Return the KL, (B,), if p has independent Gaussian units."""
    return kl_divergence(q.given_sample, p).mean(0)


@kl_per_group.register
def _(q: LadderDistribution, p: Distribution) -> tuple[Tensor, Tensor] | None:
    if (per_unit := kl_per_group(q.given_sample, p)) is None:
        return None
    sizes = [torch.Size(shape).numel() for shape in q.decoder.group_shapes]
    kl, fit = (torch.cat([mean_of_all(part) for part in units.mean(0).split(sizes, 1)], 1) for units in per_unit)
    return kl, fit


def mean_of_all(units: Tensor) -> Tensor:
    """Replace each of n values, (B, n), by their mean."""
    return units.mean(1, keepdim=True).expand_as(units)


class EncoderWithLabels(nn.Module):
    """x (B, C, H, W) and labels y (B, labels) -> the encoder's output with y appended, (B, outputs + labels)."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return with_labels(self.encoder(x, y), y)


class Ladder(Posterior):
    """Top-down inference: q(eps_l | eps_<l, x) is a Gaussian of the decoder's and the encoder's features at group l.

    `features` is the number of channels of the encoder's.
    """

    decoder: tuple[LadderDecoder]

    def __init__(self, latent_dim: int, features: int, activation: str) -> None:
        super().__init__()
        self.latent_dim, self.outputs, self.activation = latent_dim, features, activation

    def build(self, decoder: nn.Module) -> None:
        if not isinstance(decoder, LadderDecoder):
            raise UserError("posterior=ladder: expected architecture=ladder")
        self.decoder = (decoder,)  # a tuple, because its parameters are not those of q
        channels = decoder.group_shapes[0][0]
        self.q = nn.ModuleList(
            nn.Sequential(
                ACTIVATIONS[self.activation](),
                nn.Conv2d(width + self.outputs, width, 3, padding=1),
                ACTIVATIONS[self.activation](),
                nn.Conv2d(width, 2 * channels, 1),
            )
            for width in decoder.widths
        )
        kaiming_init(self.q)
        for q in self.q:
            nn.init.zeros_(q[-1].weight)  # type: ignore[index]

    def wrap_encoder(self, encoder: nn.Module) -> nn.Module:
        return EncoderWithLabels(encoder)

    def forward(self, h: Tensor) -> Distribution:
        (decoder,) = self.decoder
        shapes = [(self.outputs, *size) for _, *size in decoder.group_shapes]
        ends = list(accumulate(torch.Size(shape).numel() for shape in shapes))
        *parts, y = h.tensor_split(ends, 1)
        features = [part.unflatten(1, shape) for part, shape in zip(parts, shapes, strict=True)]
        return LadderDistribution(decoder, self.q, features, y, self.latent_dim)
