"""Figures of a model as uint8 arrays (height, width, 3). The likelihood decides how p(x|z) is shown."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Normal
from torchvision.utils import make_grid

from vae.image_grid import Picture, Row, render_rows
from vae.model.sampling import sample_fitted_mixture, sample_shape
from vae.model.vae import VAE
from vae.runs.atomic_files import atomic_path

MAX_CLASSES = 20  # with more labels than this, colour is a continuous scale
CONTINUOUS = "viridis"
CURVE_STYLES = {"train": ("tab:blue", 1), "val": ("tab:orange", 2)}  # colour and line width per split


def grid(x: Tensor, columns: int, width: int = 900) -> Picture:
    """Arrange images (N, C, H, W) in [0, 1] row by row, enlarged by whole pixels to about `width` pixels."""
    pixels = make_grid(x.clamp(0, 1), nrow=columns, padding=2, pad_value=0.5)
    zoom = max(1, round(width / pixels.shape[-1]))
    pixels = pixels.repeat_interleave(zoom, 1).repeat_interleave(zoom, 2)
    return (pixels * 255).byte().permute(1, 2, 0).cpu().numpy()


def reconstructions(vae: VAE, x: Tensor, columns: int = 5) -> Picture:
    """Show each image on the left and the picture of p(x|z) at the mean of q(z|x) on the right."""
    return grid(torch.stack([x, vae.decode(vae.q_z(x).mean)], 1).flatten(0, 1), 2 * columns)


def samples(vae: VAE, n: int = 100, columns: int = 10) -> Picture:
    """Show the pictures of p(x|z) for n samples z ~ p(z). A conditional model is given n labels."""
    p_z = vae.p_z()
    return grid(vae.decode(p_z.sample(sample_shape(p_z, n))), columns)


def styles(vae: VAE, x: Tensor, labels: int) -> Picture:
    """Show each image, and the pictures of p(x|z, y) at the mean of its q(z|x, y) for each label, up to MAX_CLASSES.

    The style of a row is the same, and the label of a column (Kingma et al. 2014, fig. 1).
    """
    y = torch.eye(labels, device=x.device)[:MAX_CLASSES]
    z = vae.q_z(x).mean[:, None].expand(-1, len(y), -1)
    return grid(torch.cat([x[:, None], vae.given(y).decode(z)], 1).flatten(0, 1), 1 + len(y))


def mixture_samples(vae: VAE, codes: Tensor, n: int = 100, columns: int = 10) -> Picture:
    """Like `samples`, with z from a Gaussian mixture fitted to the codes (N, D) of training images."""
    return grid(vae.decode(sample_fitted_mixture(codes, n)), columns)


def manifold(vae: VAE, side: int = 20, codes: Tensor | None = None) -> Picture:
    """Decode a grid over a two-dimensional latent space (Kingma & Welling 2013, fig. 4).

    The grid is the unit square mapped through the inverse Gaussian CDF. With codes (N, 2), it is mapped through the
    quantiles of each of their dimensions instead.
    """
    p = (torch.arange(side, device=next(vae.parameters()).device) + 0.5) / side
    across, up = codes.quantile(p, 0).unbind(1) if codes is not None else [Normal(0.0, 1.0).icdf(p)] * 2
    z1, z2 = torch.meshgrid(across, up.flip(0), indexing="xy")
    return grid(vae.decode(torch.stack([z1, z2], -1).flatten(0, 1)), side)


def render(figure: Any) -> Picture:
    """Draw a matplotlib figure into an array."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


class Projection(NamedTuple):
    """A linear map from codes (N, D) to points (N, 2): an origin (D,), two axes (2, D), and the names of the axes."""

    origin: Tensor
    axes: Tensor
    axis_names: list[str]

    def project(self, codes: Tensor) -> Tensor:
        """Return the points (N, 2) of codes (N, D)."""
        return (codes.double().cpu() - self.origin) @ self.axes.T


def fit_projection(codes: Tensor) -> Projection:
    """Project codes (N, D) on their first two principal components; keep them unchanged if D is 1 or 2."""
    codes = codes.double().cpu()
    if codes.shape[1] <= 2:
        origin, axes = torch.zeros_like(codes[0]), torch.eye(2, codes.shape[1], dtype=codes.dtype)
        return Projection(origin, axes, ["$z_1$", "$z_2$"][: codes.shape[1]] + [""] * (2 - codes.shape[1]))
    origin = codes.mean(0)
    _, scale, directions = torch.linalg.svd(codes - origin, full_matrices=False)
    explained = (scale**2 / (scale**2).sum()).tolist()
    return Projection(origin, directions[:2], [f"principal component {i + 1} ({explained[i]:.0%})" for i in range(2)])


def latents(codes: Tensor, labels: Tensor | None, classes: Sequence[str] | None) -> Picture:
    """Plot the means of q(z|x) of test images, (N, D), coloured by label. `classes` are the names of the labels."""
    projection = fit_projection(codes)
    z, title = projection.project(codes), "means of q(z|x), test images"
    return scatter_plot(z, projection.axis_names, labels, classes, title)


def class_colours(n: int) -> list[str]:
    """Return different colours for n classes, up to MAX_CLASSES, as hex strings."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    palette = colormaps["tab10" if n <= 10 else "tab20"]
    return [to_hex(palette(i)) for i in range(n)]


def continuous_colours(n: int = 64) -> list[str]:
    """Return n colours of the continuous scale, from the smallest to the largest label, as hex strings."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return [to_hex(colormaps[CONTINUOUS](i / (n - 1))) for i in range(n)]


def plain(text: str) -> str:
    """Escape what matplotlib would read as mathematics, or as a name to leave out of the legend."""
    return (f" {text}" if text.startswith("_") else text).replace("$", r"\$")


def scatter_plot(
    z: Tensor, axis_names: Sequence[str], labels: Tensor | None, classes: Sequence[str] | None, title: str
) -> Picture:
    """Plot points (N, 2) coloured by label: one colour per label, or a continuous scale for many labels.

    `classes` are the names of the labels 0, 1, ...; without them, labels are numbers.
    """
    from matplotlib.figure import Figure

    xlabel, ylabel = axis_names
    figure = Figure(figsize=(8, 7.2), dpi=110, layout="constrained")
    axes = figure.subplots()
    size = min(60, max(3, 20_000 / len(z)))
    found = [] if labels is None else labels.unique().tolist()
    if len(found) > MAX_CLASSES:
        scale = axes.scatter(z[:, 0], z[:, 1], s=size, c=labels, cmap=CONTINUOUS, alpha=0.6, linewidths=0)
        bar = figure.colorbar(scale, label="label", fraction=0.04)
        if classes:
            ticks = np.linspace(found[0], found[-1], MAX_CLASSES).round().astype(int).tolist()
            bar.set_ticks(ticks, labels=[plain(classes[label]) for label in ticks])
    else:
        for label, colour in zip(found or [None], class_colours(max(1, len(found))), strict=True):
            points = z if label is None else z[labels == label]
            name = classes[label] if classes and label is not None else str(label)
            axes.scatter(points[:, 0], points[:, 1], s=size, color=colour, alpha=0.6, linewidths=0, label=plain(name))
    if 0 < len(found) <= MAX_CLASSES:
        axes.legend(markerscale=(75 / size) ** 0.5, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
    return render(figure)


def fusions(vae: VAE, x: Tensor, names: Sequence[str] | None, steps: int = 5) -> Picture:
    """Interpolate between pairs of images (2 N, C, H, W), one row per pair.

    A row shows the first image, `steps` decoded points on the straight line between the two codes, and the second
    image. The labels that `vae` is given are interpolated too. `names` are 2 N captions.
    """
    t = torch.linspace(0, 1, steps, device=x.device).view(-1, 1, 1)
    pairs = [values.unflatten(0, (-1, 2)).unbind(1) for values in (vae.q_z(x).mean, *vae.y)]
    codes, *labels = (torch.lerp(first, second, t) for first, second in pairs)
    between = vae.given(*labels).decode(codes)
    ends = x.unflatten(0, (-1, 2)).transpose(0, 1)
    rows = torch.cat([ends[:1], between, ends[1:]]).transpose(0, 1)
    names = names or [""] * len(x)
    captions = [[first, *[""] * steps, second] for first, second in zip(names[::2], names[1::2], strict=True)]
    return render_rows([Row(row, caption, side=120) for row, caption in zip(rows, captions, strict=True)])


def curves(rows: list[dict[str, float]], names: Sequence[str]) -> Picture:
    """Plot the named metrics of a run over its optimiser steps. `rows` are the rows of its metrics."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.4 * len(names), 4), dpi=110, layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for split, (colour, width) in CURVE_STYLES.items():
            points = [(row["step"], row[f"{split}/{name}"]) for row in rows if f"{split}/{name}" in row]
            axes.plot(*zip(*points, strict=True), color=colour, linewidth=width, label=split)
        # The first values are far off and would flatten the rest of the curve.
        later = [row[f"{split}/{name}"] for row in rows for split in CURVE_STYLES if f"{split}/{name}" in row][5:]
        if later:
            low, high = np.percentile(later, [1, 99])
            axes.set_ylim(low - 0.1 * (high - low) - 0.1, high + 0.1 * (high - low) + 0.1)
        axes.set(title=name, xlabel="optimiser steps", ylabel="nats per image")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    return render(figure)


def save(picture: Picture, path: Path) -> None:
    """Write a PNG. An interrupted write leaves no incomplete file."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    if (picture == picture[..., :1]).all():
        picture = picture[..., 0]  # a grey PNG takes half the time
    with atomic_path(path) as part:
        Image.fromarray(picture).save(part, format="PNG")
