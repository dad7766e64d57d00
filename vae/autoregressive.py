"""p(x|z) = prod_i p(x_i | x_<i, h(z)): pixels that depend on those before them, row by row (PixelVAE, Gulrajani 2017).

The decoder's maps h say what is where; a small causal network over the pixels before says how it is drawn. Shapes: N
images, (C, H, W) one image, h (..., maps, H, W). Images are in [0, 1]; those of 8 bits are i/255.
"""

import math
from abc import abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar

import torch
import torch.distributions as D
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import constraints

from vae.config import UserError
from vae.likelihoods import Likelihood, at_least
from vae.pixels import eight_bits, log_mass

PAINTINGS = 16  # for the mean of p(x|z), which has no closed form
LEVELS = 256  # of 8 bits
AT_ONCE = 128  # images that are painted together

Taps = Sequence[tuple[int, int]]  # (rows, columns) from a pixel to those that a convolution reads


class CausalConv(nn.Conv2d):
    """A convolution that reads the rows above, and of its own row what is to the left (van den Oord et al. 2016).

    Its own place it reads if `itself`. Outside the image are zeros.
    """

    mask: Tensor

    def __init__(self, n_in: int, n_out: int, radius: int, dilation: int = 1, *, itself: bool) -> None:
        super().__init__(n_in, n_out, (radius + 1, 2 * radius + 1), dilation=dilation)
        mask = torch.ones(radius + 1, 2 * radius + 1)
        mask[-1, radius + itself :] = 0
        self.register_buffer("mask", mask, persistent=False)
        wide = radius * dilation
        self.around = (wide, wide, wide, 0)
        self.taps: Taps = [(dilation * (i - radius), dilation * (j - radius)) for i, j in mask.nonzero().tolist()]

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, self.around), self.weight * self.mask, self.bias, dilation=self.dilation)

    def matrix(self) -> Tensor:
        """The weights of the taps one after the other, (n_out, taps * n_in)."""
        return self.weight[..., self.mask.bool()].transpose(1, 2).flatten(1)


class PixelNetwork(nn.Module):
    """x (B, C, H, W) and h (..., B, maps, H, W) -> outputs (..., B, outputs, H, W), of which each pixel's depend on
    h and on the pixels before it.

    A causal convolution of `radius`, then a residual one of radius 1 for each of `dilations`, all `width` channels
    wide; h is added to the input of each. All of x is 0 outside the image, and a further channel says so; in training,
    x is outside for a part `blind` of the images, so that h must say what it can.
    """

    def __init__(
        self, channels: int, maps: int, outputs: int, radius: int, width: int, dilations: Sequence[int], blind: float
    ) -> None:
        super().__init__()
        self.blind = blind
        self.first = CausalConv(channels + 1, width, radius, itself=False)
        self.layers = nn.ModuleList(CausalConv(width, width, 1, dilation, itself=True) for dilation in dilations)
        self.of_h = nn.Conv2d(maps, width * (1 + len(dilations)), 1)
        self.last = nn.Conv2d(width, outputs, 1)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        batch = h.shape[:-3]
        seen = torch.cat([x, torch.ones_like(x[:, :1])], 1)
        if self.training and self.blind:
            seen = seen * (torch.rand(x.shape[0], 1, 1, 1, device=x.device) >= self.blind)
        seen, h = (maps.contiguous(memory_format=torch.channels_last) for maps in (seen, h.flatten(0, -4)))  # faster
        first, *others = self.of_h(h[:, : self.of_h.in_channels]).chunk(1 + len(self.layers), 1)
        a = (self.first(seen) + first.unflatten(0, (-1, x.shape[0]))).flatten(0, 1)
        for layer, of_h in zip(self.layers, others, strict=True):
            a = a + layer(F.silu(a)) + of_h
        return self.last(F.silu(a)).unflatten(0, batch)

    @torch.no_grad()
    def paint(
        self, h: Tensor, pixels: "AutoregressiveLikelihood", temperature: float, rng: torch.Generator | None
    ) -> Tensor:
        """Images (N, C, H, W) for h (N, maps, H, W), each pixel chosen once those before it are.

        A pixel needs of the row above at most `reach` - 1 columns to its right, so that all pixels (i, j) of one
        j + reach * i can be painted together: of 48 x 48, 189 steps and not 2304. What a convolution reads is kept
        in the last `deep` of those steps, (deep, H, N, channels), whose slots outside the image stay 0.
        """
        (height, width), n = h.shape[-2:], len(h)
        convs: list[CausalConv] = [self.first, *self.layers]  # type: ignore[list-item]
        read = [*(conv.taps for conv in convs), pixels.neighbours]
        reach = 1 + max(1, *(j // -i for taps in read for i, j in taps if i))
        above = max(-i for taps in read for i, _ in taps)
        deep = 1 + max(-j - reach * i for taps in read for i, j in taps)
        row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        step = (reach * row + column).flatten()
        order = step.argsort(stable=True)
        row, step = row.flatten()[order], step[order]
        slots = [[((step + j + reach * i) % deep, above + row + i) for i, j in taps] for taps in read]
        nowhere = step.new_zeros(len(step), 0)
        places = [
            torch.stack([slot * (above + height) + at for slot, at in of_conv], 1) if of_conv else nowhere
            for of_conv in slots
        ]
        places = [at.to(h.device) for at in places]
        of_h = self.of_h(h[:, : self.of_h.in_channels]).flatten(2)[..., order].permute(2, 0, 1).contiguous()
        weights = [(conv.matrix(), conv.bias) for conv in convs]
        kept = [h.new_zeros(deep, above + height, n, conv.in_channels) for conv in convs]
        given = pixels.given(h)
        painted: list[Tensor] = []
        ends = torch.searchsorted(step, torch.arange(int(step[-1]) + 2)).tolist()
        for t, (begin, end) in enumerate(pairwise(ends)):
            first = above + int(row[begin]) if begin < end else 0

            def reading(cache: Tensor, at: Tensor, now: slice = slice(begin, end)) -> Tensor:
                """What stands at these places of each pixel of this step, (pixels, N, places * channels)."""
                found = cache.flatten(0, 1).index_select(0, at[now].flatten())
                return found.unflatten(0, (now.stop - now.start, at.shape[1])).transpose(1, 2).flatten(2)

            def keep(cache: Tensor, values: Tensor, t: int = t, first: int = first) -> None:
                cache[t % deep].zero_()[first : first + len(values)] = values

            a, *others = of_h[begin:end].chunk(len(convs), -1)
            a = a + F.linear(reading(kept[0], places[0]), *weights[0])
            for cache, at, weight, of_this in zip(kept[1:], places[1:], weights[1:], others, strict=False):
                keep(cache, F.silu(a))
                a = a + F.linear(reading(cache, at), *weight) + of_this
            out = F.linear(F.silu(a), self.last.weight.flatten(1), self.last.bias)
            value = pixels.choose(out, reading(kept[0], places[-1]), given, temperature, rng)
            keep(kept[0], torch.cat([pixels.seen(value), torch.ones_like(value[..., :1])], -1))
            painted.append(value)
        images = torch.empty(height * width, *painted[0].shape[1:], device=h.device, dtype=h.dtype)
        images[order.to(h.device)] = torch.cat(painted)
        return images.permute(1, 2, 0).unflatten(-1, (height, width))


class Painted(D.Distribution):
    """Images (C, H, W) that are drawn pixel by pixel, for h (..., maps, H, W), as a likelihood says."""

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, likelihood: "AutoregressiveLikelihood", h: Tensor) -> None:
        self.likelihood, self.h = likelihood, h
        super().__init__(h.shape[:-3], torch.Size([likelihood.channels, *h.shape[-2:]]), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """In one pass; of K samples of h, (K, B, maps, H, W), the images, (B, C, H, W), are looked at once."""
        h, batch = self.h, torch.broadcast_shapes(value.shape[:-3], self.h.shape[:-3])
        if value.dim() != 4 or h.dim() < 4 or h.shape[-4] != len(value):
            value = value.expand(*batch, *self.event_shape).reshape(-1, *self.event_shape)
            h = h.expand(*batch, *h.shape[-3:]).reshape(-1, *h.shape[-3:])
        out = self.likelihood.network(self.likelihood.seen(value), h)
        return self.likelihood.log_mass(value, out, self.likelihood.given(h)).reshape(batch)

    def painted(self, h: Tensor, temperature: float, rng: torch.Generator | None) -> Tensor:
        """Images (..., C, H, W) for h (..., maps, H, W)."""
        parts = h.reshape(-1, *h.shape[-3:]).split(AT_ONCE)
        state = rng.get_state() if rng else None
        images = []
        for part in parts:
            if rng and state is not None:
                rng.set_state(state)  # so that an image does not depend on those painted with it
            images.append(self.likelihood.network.paint(part, self.likelihood, temperature, rng))
        return torch.cat(images).unflatten(0, h.shape[:-3])

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return self.painted(self.h.expand(*sample_shape, *self.h.shape), 1.0, None)

    def painting(self, temperature: float, seed: int = 0) -> Tensor:
        """One image for each h, and the same for the same h. At temperature 0 each pixel is the likeliest."""
        return self.painted(self.h, temperature, torch.Generator().manual_seed(seed))

    @property
    def mean(self) -> Tensor:
        """That of PAINTINGS images, the same for the same h. It has no gradient, and UserError if one is wanted."""
        if torch.is_grad_enabled() and self.h.requires_grad:
            name = type(self.likelihood).__name__
            raise UserError(f"likelihood: the mean of {name} has no gradient; expected another, or objective=elbo")
        return torch.stack([self.painting(1.0, seed) for seed in range(PAINTINGS)]).mean(0)


class AutoregressiveLikelihood(Likelihood):
    """What all share: the causal network, whose outputs say of each pixel what `log_mass` and `choose` make of them.

    `maps` is how many maps of h the decoder gives; `temperature` is that of the picture; for the others see
    `PixelNetwork`. `build` is called once, before all else.
    """

    neighbours: ClassVar[Taps] = ()  # whose values `choose` is told
    outside = 0.0  # the value of all that is outside the image
    network: PixelNetwork
    channels: int

    def __init__(
        self, maps: int, radius: int, width: int, dilations: Sequence[int], blind: float, temperature: float
    ) -> None:
        super().__init__()
        self.n_maps, self.temperature = maps, temperature
        self.shape = {"radius": radius, "width": width, "dilations": dilations, "blind": blind}

    def build(self, channels: int) -> None:
        self.channels = channels
        self.network = PixelNetwork(channels, self.n_maps, self.outputs(channels), **self.shape)  # type: ignore[arg-type]

    def maps(self, channels: int) -> int:  # noqa: ARG002 - as many for every image
        return self.n_maps

    def forward(self, h: Tensor) -> D.Distribution:
        return Painted(self, h)

    def picture(self, p_x: D.Distribution) -> Tensor:
        """A painting."""
        assert isinstance(p_x, Painted)
        return p_x.painting(self.temperature)

    def seen(self, x: Tensor) -> Tensor:
        """What the network is shown of values x."""
        return 2 * (x - self.outside)

    def given(self, _h: Tensor) -> Any:
        """What h, (..., maps, H, W), says of the whole image."""
        return None

    @abstractmethod
    def outputs(self, channels: int) -> int:
        """How many the network has for each pixel."""

    @abstractmethod
    def log_mass(self, x: Tensor, out: Tensor, given: Any) -> Tensor:
        """log p(x|z), (..., B), of images x (B, C, H, W), from outputs (..., B, outputs, H, W)."""

    @abstractmethod
    def choose(
        self, out: Tensor, around: Tensor, given: Any, temperature: float, rng: torch.Generator | None
    ) -> Tensor:
        """Values (rows, N, C) of one pixel in each of some rows, from its outputs (rows, N, outputs).

        `around`, (rows, N, neighbours * (C + 1)), is what the network is shown of the neighbours. The noise is each
        image's own or, with `rng`, the same for all.
        """


def uniform(like: Tensor, n: int, rng: torch.Generator | None) -> Tensor:
    """n numbers between 0 and 1 for each of (rows, N): (rows, N, n), or (rows, 1, n), of `rng`, for all images."""
    shape = (*like.shape[:-1], n) if rng is None else (len(like), 1, n)
    device = like.device if rng is None else torch.device("cpu")
    return torch.rand(shape, generator=rng, device=device).to(like).clamp(1e-7, 1 - 1e-7)


def level(x: Tensor) -> Tensor:
    """Which of the LEVELS a value is, a whole number as float."""
    return (x * (LEVELS - 1)).round()


def rounded(x: Tensor) -> Tensor:
    """The nearest of the LEVELS."""
    return level(x.clamp(0, 1)) / (LEVELS - 1)


def gumbel(u: Tensor) -> Tensor:
    """Of uniform numbers: the index of the largest log p + gumbel has the distribution p."""
    return -(-u.log()).log()


class PixelCNN(AutoregressiveLikelihood):
    """x in {0, 1}: each pixel is Bernoulli, given h and those before it (Gulrajani et al. 2017)."""

    support: constraints.Constraint = constraints.boolean

    def outputs(self, channels: int) -> int:
        return channels

    def log_mass(self, x: Tensor, out: Tensor, given: None) -> Tensor:  # noqa: ARG002
        return F.logsigmoid((2 * x - 1) * out).sum((-3, -2, -1))

    def choose(
        self,
        out: Tensor,
        around: Tensor,  # noqa: ARG002
        given: None,  # noqa: ARG002
        temperature: float,
        rng: torch.Generator | None,
    ) -> Tensor:
        return (out + temperature * uniform(out, out.shape[-1], rng).logit() > 0).to(out)


class PixelCNNLogistic(AutoregressiveLikelihood):
    """x of 8 bits: each pixel is a mixture of K logistics, rounded to 256 levels (Salimans et al. 2017).

    The channels of a pixel come of one component, and are independent given it.
    """

    support = eight_bits

    def __init__(self, K: int, **shape: Any) -> None:
        super().__init__(**shape)
        self.K = K

    def outputs(self, channels: int) -> int:
        return self.K * (1 + 2 * channels)

    def split(self, out: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
        """log pi, with K in place of the outputs; the means and log-scales, with (K, C)."""
        log_pi, loc, log_s = out.split([self.K, self.K * self.channels, self.K * self.channels], dim)
        loc, log_s = (part.unflatten(dim, (self.K, self.channels)) for part in (loc, log_s))
        return log_pi.log_softmax(dim), loc + 0.5, at_least(log_s - 2, -7)

    def log_mass(self, x: Tensor, out: Tensor, given: None) -> Tensor:  # noqa: ARG002
        log_pi, loc, log_s = self.split(out, -3)
        return (log_pi + log_mass(x.unsqueeze(-4), loc, log_s).sum(-3)).logsumexp(-3).sum((-2, -1))

    def choose(
        self,
        out: Tensor,
        around: Tensor,  # noqa: ARG002
        given: None,  # noqa: ARG002
        temperature: float,
        rng: torch.Generator | None,
    ) -> Tensor:
        log_pi, loc, log_s = self.split(out, -1)
        u = uniform(out, self.K + self.channels, rng)
        k = (log_pi + temperature * gumbel(u[..., : self.K])).argmax(-1)
        k = k[..., None, None].expand(*k.shape, 1, self.channels)
        loc, log_s = loc.gather(-2, k).squeeze(-2), log_s.gather(-2, k).squeeze(-2)
        value = loc + temperature * u[..., self.K :].logit() * log_s.exp()
        return rounded(value)


class WithCode(nn.Module):
    """z (..., D) -> the maps of a decoder, and each number of the code as a map, (..., maps + D, H, W)."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.maps = decoder

    def forward(self, z: Tensor) -> Tensor:
        h = self.maps(z)
        return torch.cat([h, z[..., None, None].expand(*z.shape, *h.shape[-2:])], -3)


class PixelArt(AutoregressiveLikelihood):
    """x of 8 bits in colour, drawn as pixel art is: most pixels repeat a neighbour, and the others are of a palette.

    Each pixel is a mixture of point masses, on paper and on the colours of the neighbours, and of `palette` colours
    that the code, of `latent_dim`, gives to the whole image: each a logistic about it in every channel, rounded to 256
    levels. Point masses on one colour add up. Outside the image is paper. In the picture a new colour is that of the
    palette itself. The code comes with h, behind its maps, as maps of one value each.
    """

    support = eight_bits
    neighbours: ClassVar[Taps] = ((0, -1), (-1, 0), (-1, -1), (-1, 1), (0, -2), (-2, 0))

    def __init__(self, latent_dim: int, palette: int, paper: float, **shape: Any) -> None:
        super().__init__(**shape)
        self.latent_dim = latent_dim
        self.K, self.outside = palette, round(paper * (LEVELS - 1)) / (LEVELS - 1)
        self.copies = 1 + len(self.neighbours)

    def outputs(self, channels: int) -> int:  # noqa: ARG002 - as many for every image
        return self.copies + self.K

    def build(self, channels: int) -> None:
        super().build(channels)
        last = nn.Linear(128, 2 * self.K * channels)
        nn.init.normal_(last.bias[: self.K * channels], std=1.5)  # of many colours from the start
        self.palette = nn.Sequential(nn.Linear(self.latent_dim, 128), nn.SiLU(), last)

    def decoder(self, decoder: nn.Module) -> nn.Module:
        return WithCode(decoder)

    def given(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """The colours of the palette and their log-scales, (..., K, C)."""
        z = h[..., self.n_maps :, 0, 0]
        loc, log_s = self.palette(z).unflatten(-1, (2, self.K, self.channels)).unbind(-3)
        return loc.sigmoid(), at_least(log_s - 3, -8)

    def coded(self, x: Tensor, dim: int) -> Tensor:
        """Each colour as one whole number, exact in a float32."""
        bases = float(LEVELS) ** torch.arange(self.channels, device=x.device)
        return (level(x).movedim(dim, -1) * bases.to(x)).sum(-1)

    def repeats(self, x: Tensor) -> Tensor:
        """Whether a pixel of images (B, C, H, W) is paper, and whether it has the colour of each neighbour."""
        height, width = x.shape[-2:]
        wide = max(max(abs(i), abs(j)) for i, j in self.neighbours)
        code = self.coded(F.pad(x, [wide] * 4, value=self.outside), -3)
        here, paper = code[..., wide:-wide, wide:-wide], code[..., :1, :1]
        moved = [code[..., wide + i : wide + i + height, wide + j : wide + j + width] for i, j in self.neighbours]
        return torch.stack([here == paper, *(here == other for other in moved)], -3)

    def log_mass(self, x: Tensor, out: Tensor, given: tuple[Tensor, Tensor]) -> Tensor:
        loc, log_s = given
        levels = torch.arange(LEVELS, device=x.device).to(x) / (LEVELS - 1)
        table = log_mass(levels, loc.unsqueeze(-1), log_s.unsqueeze(-1))  # (..., B, K, C, LEVELS)
        at = level(x).long().flatten(-2).unsqueeze(-3)  # (B, 1, C, H W)
        new = table.gather(-1, at.expand(*table.shape[:-1], -1)).sum(-2).unflatten(-1, x.shape[-2:])
        old, fresh = out.split([self.copies, self.K], -3)
        old = old.masked_fill(~self.repeats(x), -math.inf)
        return (torch.cat([old, fresh + new], -3).logsumexp(-3) - out.logsumexp(-3)).sum((-2, -1))

    def choose(
        self,
        out: Tensor,
        around: Tensor,
        given: tuple[Tensor, Tensor],
        temperature: float,
        rng: torch.Generator | None,
    ) -> Tensor:
        loc, log_s = given
        n = self.copies + self.K
        u = uniform(out, n + self.channels if rng is None else n, rng)
        new = loc.expand(len(out), *loc.shape)
        if rng is None:
            new = new + temperature * u[..., None, n:].logit() * log_s.exp()
        new = rounded(new)
        around = around.unflatten(-1, (len(self.neighbours), -1))[..., : self.channels] / 2 + self.outside
        paper = torch.full_like(around[..., :1, :], self.outside)
        colours = torch.cat([paper, around, new], -2)  # (rows, N, n, C)
        code = self.coded(colours, -1)
        same = code.unsqueeze(-1) == code.unsqueeze(-2)
        log_p = (same.to(out) @ out.softmax(-1).unsqueeze(-1)).squeeze(-1).log()  # of a colour, with all that share it
        again = (same & torch.ones(n, n, dtype=torch.bool, device=out.device).tril(-1)).any(-1)
        k = (log_p + temperature * gumbel(u[..., :n])).masked_fill(again, -math.inf).argmax(-1)
        colour = colours.gather(-2, k[..., None, None].expand(*k.shape, 1, self.channels)).squeeze(-2)
        return rounded(colour)
