"""Pictures of a model, as uint8 arrays (height, width, 3); likelihoods say how p(x|z) is shown."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import Normal
from torchvision.utils import make_grid

from vae.model.sampling import sample_fitted_mixture
from vae.model.vae import VAE

Picture = NDArray[np.uint8]

MANY = 20  # labels to tell apart by colour
SPLITS = {"train": ("tab:blue", 1), "val": ("tab:orange", 2)}


def grid(x: Tensor, columns: int) -> Picture:
    """Images (N, C, H, W) in [0, 1], row by row, enlarged without blur to be seen."""
    pixels = make_grid(x.clamp(0, 1), nrow=columns, padding=2, pad_value=0.5)
    zoom = max(1, round(900 / pixels.shape[-1]))
    pixels = pixels.repeat_interleave(zoom, 1).repeat_interleave(zoom, 2)
    return (pixels * 255).byte().permute(1, 2, 0).cpu().numpy()


def reconstructions(vae: VAE, x: Tensor, columns: int = 5) -> Picture:
    """Each image, left, beside the picture of p(x|z) at the mean of q(z|x), right."""
    return grid(torch.stack([x, vae.decode(vae.q_z(x).mean)], 1).flatten(0, 1), 2 * columns)


def samples(vae: VAE, n: int = 100, columns: int = 10) -> Picture:
    """The picture of p(x|z) for n codes z ~ p(z)."""
    return grid(vae.decode(vae.p_z().sample((n,))), columns)


def mixture_samples(vae: VAE, codes: Tensor, n: int = 100, columns: int = 10) -> Picture:
    """As `samples`, for z from a Gaussian mixture fitted to codes (N, D) of training images."""
    return grid(vae.decode(sample_fitted_mixture(codes, n)), columns)


def manifold(vae: VAE, side: int = 20, codes: Tensor | None = None) -> Picture:
    """For D = 2: the unit square through the inverse Gaussian CDF, decoded (Kingma & Welling 2013, fig. 4).

    Given codes (N, D), through the quantiles of each of their dimensions instead.
    """
    p = (torch.arange(side, device=next(vae.parameters()).device) + 0.5) / side
    across, up = codes.quantile(p, 0).unbind(1) if codes is not None else [Normal(0.0, 1.0).icdf(p)] * 2
    z1, z2 = torch.meshgrid(across, up.flip(0), indexing="xy")
    return grid(vae.decode(torch.stack([z1, z2], -1).flatten(0, 1)), side)


def rendered(figure: Any) -> Picture:
    """A matplotlib figure as an array."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


class Plane(NamedTuple):
    """Where codes are shown: by origin (D,) and axes (2, D), which have names."""

    origin: Tensor
    axes: Tensor
    names: list[str]

    def of(self, codes: Tensor) -> Tensor:
        """The points (N, 2) of codes (N, D)."""
        return (codes.double().cpu() - self.origin) @ self.axes.T


def plane(codes: Tensor) -> Plane:
    """Of codes (N, D), their own plane where D is 1 or 2, and else that of their first two principal components."""
    codes = codes.double().cpu()
    if codes.shape[1] <= 2:
        origin, axes = torch.zeros_like(codes[0]), torch.eye(2, codes.shape[1], dtype=codes.dtype)
        return Plane(origin, axes, ["$z_1$", "$z_2$"][: codes.shape[1]] + [""] * (2 - codes.shape[1]))
    origin = codes.mean(0)
    _, scale, directions = torch.linalg.svd(codes - origin, full_matrices=False)
    part = (scale**2 / (scale**2).sum()).tolist()
    return Plane(origin, directions[:2], [f"principal component {i + 1} ({part[i]:.0%})" for i in range(2)])


def latents(codes: Tensor, labels: Tensor | None) -> Picture:
    """The means of q(z|x) of test images, (N, D), coloured by label."""
    on = plane(codes)
    return scattered(on.of(codes), on.names, labels, "means of q(z|x), test images")


def scattered(z: Tensor, axis_names: Sequence[str], labels: Tensor | None, title: str) -> Picture:
    """Points (N, 2), coloured by label: each in its own colour, or along a scale where there are many."""
    from matplotlib.figure import Figure

    xlabel, ylabel = axis_names
    figure = Figure(figsize=(8, 7.2), dpi=110, layout="constrained")
    axes = figure.subplots()
    size = min(60, max(3, 20_000 / len(z)))
    kinds = [] if labels is None else labels.unique().tolist()
    if len(kinds) > MANY:
        scale = axes.scatter(z[:, 0], z[:, 1], s=size, c=labels, alpha=0.6, linewidths=0)
        figure.colorbar(scale, label="label", fraction=0.04)
    else:
        for kind in kinds or [None]:
            points = z if kind is None else z[labels == kind]
            axes.scatter(points[:, 0], points[:, 1], s=size, alpha=0.6, linewidths=0, label=kind)
    if 0 < len(kinds) <= MANY:
        axes.legend(markerscale=(75 / size) ** 0.5, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
    return rendered(figure)


def fusions(vae: VAE, x: Tensor, names: Sequence[str] | None, steps: int = 5) -> Picture:
    """Pairs of images (2 N, C, H, W), left and right, and between them what lies between their codes, decoded."""
    from matplotlib.figure import Figure

    first, second = vae.q_z(x).mean.unflatten(0, (-1, 2)).unbind(1)
    between = vae.decode(torch.lerp(first, second, torch.linspace(0, 1, steps, device=x.device).view(-1, 1, 1)))
    pairs = x.unflatten(0, (-1, 2)).transpose(0, 1)
    rows = (torch.cat([pairs[:1], between, pairs[1:]]).transpose(0, 1).clamp(0, 1) * 255).byte().cpu()
    figure = Figure(figsize=(1.3 * (steps + 2), 1.5 * len(rows)), dpi=110, layout="constrained", facecolor="white")
    for n, (row, axes) in enumerate(zip(rows, figure.subplots(len(rows), steps + 2, squeeze=False), strict=True)):
        for image, place in zip(row, axes, strict=True):
            place.imshow(image.expand(3, -1, -1).permute(1, 2, 0).numpy(), interpolation="nearest")
            place.axis("off")
        for place, i in ((axes[0], 2 * n), (axes[-1], 2 * n + 1)):
            place.set_title(names[i] if names else "", fontsize=8, parse_math=False)
    return rendered(figure)


def curves(rows: list[dict[str, float]], names: Sequence[str]) -> Picture:
    """The curves of these names over the optimiser steps of a run."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.4 * len(names), 4), dpi=110, layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for split, (colour, width) in SPLITS.items():
            points = [(row["step"], row[f"{split}/{name}"]) for row in rows if f"{split}/{name}" in row]
            axes.plot(*zip(*points, strict=True), color=colour, linewidth=width, label=split)
        settled = [row[f"{split}/{name}"] for row in rows for split in SPLITS if f"{split}/{name}" in row][5:]
        if settled:
            low, high = np.percentile(settled, [1, 99])
            axes.set_ylim(low - 0.1 * (high - low) - 0.1, high + 0.1 * (high - low) + 0.1)
        axes.set(title=name, xlabel="optimiser steps", ylabel="nats per image")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    return rendered(figure)


def save(picture: Picture, path: Path) -> None:
    """As PNG, whole or not at all."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    if (picture == picture[..., :1]).all():
        picture = picture[..., 0]  # a grey one, which takes half the time
    Image.fromarray(picture).save(path.with_suffix(".part"), format="PNG")
    path.with_suffix(".part").replace(path)
