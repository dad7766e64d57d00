"""A causal convolutional network: its outputs at a pixel depend on h and on the previous pixels, row by row.

Shapes: N images, (C, H, W) one image, h (..., h_channels, H, W).
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SWAPPED_BLOCK = 8  # pixels
Offsets = Sequence[tuple[int, int]]  # (rows, columns) from a pixel to the pixels that are read


def with_inside(x: Tensor, dim: int) -> Tensor:
    """Append the input channel that is 1 inside the image."""
    return torch.cat([x, torch.ones_like(x.narrow(dim, 0, 1))], dim)


class CausalConv(nn.Conv2d):
    """Masked convolution over the rows above and the pixels to the left (van den Oord et al. 2016).

    In the i-th row above, it reads at most i columns to the right, so that many pixels can be sampled at once. It also
    reads the pixel itself if `center`. The image is padded with zeros.
    """

    mask: Tensor

    def __init__(self, n_in: int, n_out: int, radius: int, dilation: int = 1, *, center: bool) -> None:
        super().__init__(n_in, n_out, (radius + 1, 2 * radius + 1), dilation=dilation)
        mask = torch.ones(radius + 1, 2 * radius + 1).flip(1).triu().flip(1)
        mask[-1, radius + center :] = 0
        self.register_buffer("mask", mask, persistent=False)
        self.padding = (radius * dilation, radius * dilation)
        self.offsets: Offsets = [(dilation * (i - radius), dilation * (j - radius)) for i, j in mask.nonzero().tolist()]

    def forward(self, x: Tensor) -> Tensor:
        # Padding above and below and leaving out the last rows takes less time than padding above only.
        padded = F.conv2d(x, self.weight * self.mask, self.bias, padding=self.padding, dilation=self.dilation)
        return padded[..., : x.shape[-2], :]

    def matrix(self) -> Tensor:
        """Return the weights that are not masked, one offset after the other, (n_out, offsets * n_in)."""
        return self.weight[..., self.mask.bool()].transpose(1, 2).flatten(1)


class CausalNetwork(nn.Module):
    """x (B, C, H, W) and h (..., B, h_channels, H, W) -> outputs (..., B, outputs, H, W).

    A causal convolution of `radius`, then a residual one of radius 1 for each of `dilations`, all with `width`
    channels. A projection of h is added to the output of each. An additional input channel is 1 inside the image and 0
    outside. In training, a fraction `context_swap` of the blocks of SWAPPED_BLOCK^2 inputs comes from another image of
    the batch. So the network learns to follow h where the previous pixels contradict it, as samples sometimes do.
    """

    def __init__(
        self,
        channels: int,
        h_channels: int,
        outputs: int,
        radius: int,
        width: int,
        dilations: Sequence[int],
        context_swap: float,
    ) -> None:
        super().__init__()
        self.context_swap = context_swap
        self.first = CausalConv(channels + 1, width, radius, center=False)
        self.layers = nn.ModuleList(CausalConv(width, width, 1, dilation, center=True) for dilation in dilations)
        self.project_h = nn.Conv2d(h_channels, width * (1 + len(dilations)), 1)
        self.last = nn.Conv2d(width, outputs, 1)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        batch = h.shape[:-3]
        if self.training and self.context_swap:
            x = torch.where(self.swapped(x), x.roll(1, 0), x)
        inputs = with_inside(x, 1), h.flatten(0, -4)
        x, h = (t.contiguous(memory_format=torch.channels_last) for t in inputs)  # faster on CPUs
        projections = zip(*(p.chunk(1 + len(self.layers)) for p in self.project_h.parameters()), strict=True)
        of_first, *of_layers = (F.conv2d(h, weight, bias) for weight, bias in projections)
        a = (self.first(x) + of_first.unflatten(0, (-1, x.shape[0]))).flatten(0, 1)
        for layer, of_layer in zip(self.layers, of_layers, strict=True):
            a = a + layer(F.silu(a)) + of_layer
        return self.last(F.silu(a)).unflatten(0, batch)

    def swapped(self, x: Tensor) -> Tensor:
        """Return for each pixel whether it comes from another image, (B, 1, H, W)."""
        height, width = x.shape[-2:]
        blocks = [-(-size // SWAPPED_BLOCK) for size in (height, width)]
        swapped = torch.rand(x.shape[0], 1, *blocks, device=x.device) < self.context_swap
        return swapped.repeat_interleave(SWAPPED_BLOCK, -2).repeat_interleave(SWAPPED_BLOCK, -1)[..., :height, :width]

    @property
    def convs(self) -> list[CausalConv]:
        return [self.first, *self.layers]  # type: ignore[list-item]

    def reach(self, neighbours: Offsets) -> int:
        """Return one more than the columns to its right that a pixel reads in each row above, at most."""
        reads = [*(conv.offsets for conv in self.convs), neighbours]
        return 1 + max(1, *(j // -i for offsets in reads for i, j in offsets if i))

    def sampling_order(self, height: int, width: int, neighbours: Offsets) -> Tensor:
        """Return the pixels in the order in which `sample` takes them, as indices in row-major order, (H W,)."""
        row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        return (self.reach(neighbours) * row + column).flatten().argsort(stable=True)

    @torch.no_grad()
    def sample(
        self,
        h: Tensor,
        noise: Tensor,
        neighbours: Offsets,
        sample_pixel: Callable[[Tensor, Tensor, Tensor], Tensor],
        network_input: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """Return images (N, C, H, W) for h (N, h_channels, H, W), sampled pixel by pixel.

        `sample_pixel` returns the values (rows, N, C) of one pixel in each of some rows, given the outputs for them,
        their part of `noise`, (H W, ...), and the inputs at their `neighbours`, (rows, N, neighbours * (C + 1)).
        `network_input` maps values to inputs.

        A pixel reads at most `reach` - 1 columns to its right in the row above. So all pixels (i, j) with the same
        j + reach * i are sampled in one step: 48 x 48 pixels with reach 2 take 142 steps instead of 2304. The inputs of
        each convolution are kept for the last `depth` steps, (depth, padding + H, N, channels), and are 0 outside the
        image.
        """
        (height, width), n = h.shape[-2:], len(h)
        reads = [*(conv.offsets for conv in self.convs), neighbours]
        reach = self.reach(neighbours)
        padding = max(-i for offsets in reads for i, _ in offsets)
        depth = 1 + max(-j - reach * i for offsets in reads for i, j in offsets)

        order = self.sampling_order(height, width, neighbours)
        row, column = order // width, order % width
        step = reach * row + column
        ends = torch.searchsorted(step, torch.arange(int(step[-1]) + 2)).tolist()
        places = []  # for each of `reads`, indices into a flattened cache, (pixels, offsets)
        for offsets in reads:
            slots = [((step + j + reach * i) % depth) * (padding + height) + padding + row + i for i, j in offsets]
            places.append(torch.stack(slots, 1).to(h.device) if slots else None)

        def read(cache: Tensor, place: Tensor | None) -> Tensor:
            """Return what the cache holds at these places, (pixels, N, offsets * channels)."""
            if place is None:
                return cache.new_empty(0)
            values = cache.flatten(0, 1).index_select(0, place.flatten()).unflatten(0, place.shape)
            return values.transpose(1, 2).flatten(2)

        of_h = self.project_h(h).flatten(2)[..., order].permute(2, 0, 1).contiguous()
        caches = [h.new_zeros(depth, padding + height, n, conv.in_channels) for conv in self.convs]
        weights = [(conv.matrix(), conv.bias) for conv in self.convs]
        samples = []
        for t, (begin, end) in enumerate(pairwise(ends)):
            first_row = padding + int(row[begin]) if begin < end else 0
            now = [None if place is None else place[begin:end] for place in places]
            of_first, *of_layers = of_h[begin:end].chunk(len(caches), -1)

            def write(cache: Tensor, values: Tensor, t: int = t, first_row: int = first_row) -> None:
                cache[t % depth].zero_()[first_row : first_row + len(values)] = values

            a = of_first + F.linear(read(caches[0], now[0]), *weights[0])
            for cache, place, weight, of_layer in zip(caches[1:], now[1:], weights[1:], of_layers, strict=False):
                write(cache, F.silu(a))
                a = a + F.linear(read(cache, place), *weight) + of_layer
            outputs = F.linear(F.silu(a), self.last.weight.flatten(1), self.last.bias)
            value = sample_pixel(outputs, noise[begin:end], read(caches[0], now[-1]))
            write(caches[0], with_inside(network_input(value), -1))
            samples.append(value)
        images = torch.empty(height * width, *samples[0].shape[1:], device=h.device, dtype=h.dtype)
        images[order.to(h.device)] = torch.cat(samples)
        return images.permute(1, 2, 0).unflatten(-1, (height, width))
