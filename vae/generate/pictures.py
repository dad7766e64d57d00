"""What `vae.generate` can make of a finished run: one function per `what`, which returns the files by name.

Shapes: N images or codes, D latent dimensions, (C, H, W) one image, T interpolation steps.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL.Image import Resampling
from torch import Tensor

from datamodules.base import EVAL_BATCH
from datamodules.image_files import open_image
from datamodules.pixels import to_float
from datamodules.stored import StoredPixels
from vae import figures
from vae.api.images import SelectedImages, random_images, resolve_image, resolve_images
from vae.api.trained_model import MAX_TRAIN_CODES
from vae.errors import UserError
from vae.generate.image_grid import Row, animate, encode_gif, encode_png, render_rows
from vae.generate.session import Session
from vae.model.interpolation import loop, smoothstep
from vae.model.priors import UnitNormal

Files = dict[str, bytes]  # contents by file name

N_STEPS = 11  # pictures in a strip or a row of a traversal
N_WAYPOINTS = 5  # codes that a walk passes through
MAX_TILES = 36  # pictures in one GIF
TRAVERSAL_RANGE = 2.5  # standard deviations on each side of the mean
N_NEIGHBOURS = 6
MAX_FRAMES, MAX_FRAME_PIXELS = 1000, 2_000_000  # of a film
HOLD = 12  # frames for which a film stays on the last picture


def samples(session: Session) -> Files:
    """Decode sampled codes."""
    n = session.n or 100
    picture = figures.grid(session.decode(session.sample(n)), min(10, -(-n // round(n**0.5))))
    return {"samples.png" if session.source == "prior" else "mixture_samples.png": encode_png(picture)}


def reconstructions(session: Session) -> Files:
    """Show test images, or the selected ones, on the left of their reconstructions."""
    if session.images:
        x = resolve_images(session.data, "images", session.images).x
    else:
        n_test = len(session.data.images["test"].pixels)
        x = random_images(session.data, "test", session.n or min(50, n_test)).x
    pairs = torch.stack([x.cpu(), session.decode(session.encode(x))], 1).flatten(0, 1)
    return {"reconstructions.png": encode_png(figures.grid(pairs, 2 * min(5, len(x))))}


def image_pair(session: Session) -> SelectedImages:
    """Return the two images of images=[a,b], or two random training images."""
    if session.images and len(session.images) != 2:
        raise UserError(
            f"images: expected two images for an interpolation, such as images=[0,1]; got {len(session.images)}"
        )
    if not session.images:
        return random_images(session.data, "train", 2)
    return resolve_images(session.data, "images", session.images)


def interpolation_row(session: Session, pair: SelectedImages) -> Row:
    """Interpolate between two images; the captions are the percentage of the second."""
    t = torch.linspace(0, 1, N_STEPS)
    return Row(session.between(pair, t), [f"{fraction:.0%}" for fraction in t.tolist()])


def interpolation(session: Session) -> Files:
    """Interpolate between two images: a strip, and a GIF that goes to the second image and back."""
    pair = image_pair(session)
    between, percent = interpolation_row(session, pair)[:2]
    ends = pair.x.cpu()
    row = Row(torch.cat([ends[:1], between, ends[1:]]), [pair.names[0], *percent, pair.names[1]])
    t = torch.cat([smoothstep(24), torch.ones(1)])
    frames = session.between(pair, torch.cat([t, torch.ones(8), t.flip(0), torch.zeros(8)]))
    return {
        "interpolation.png": encode_png(render_rows([row])),
        "interpolation.gif": animate(frames[:, None], 1, width=280),
    }


def traversal(session: Session) -> Files:
    """Change one latent dimension per row and keep the others, the most informative dimensions first."""
    if len(session.images) > 1:
        raise UserError(f"images: expected one image to start from; got {len(session.images)}")
    information, information_unit = session.dimension_information
    order = information.argsort(descending=True).tolist()
    if unknown := [d for d in session.dimensions if d > len(order)]:
        best = ", ".join(str(d + 1) for d in order[:3])
        raise UserError(f"dimensions={unknown[0]}: expected 1 to {len(order)}; the most informative are {best}")
    if session.images:
        start = resolve_images(session.data, "images", session.images)
    else:
        start = random_images(session.data, "train", 1)
    code = session.encode(start.x)[0]
    mean, sd = session.aggregate_posterior_stats
    steps = torch.linspace(-TRAVERSAL_RANGE, TRAVERSAL_RANGE, N_STEPS, device=session.device)
    rows = []
    for d in [d - 1 for d in session.dimensions] or order[: session.n or 10]:
        codes = code.repeat(N_STEPS, 1)
        codes[:, d] = mean[d] + sd[d] * steps
        rows.append(Row(session.decode(codes), label=f"z{d + 1}   {information[d]:.2f} {information_unit}", side=72))
    rows[-1] = rows[-1]._replace(captions=[f"{step:+.1f} sd".replace("-", "\N{MINUS SIGN}") for step in steps.tolist()])
    return {"traversal.png": encode_png(render_rows([Row(start.x, start.names, "start", 72), *rows]))}


def manifold(session: Session) -> Files:
    """Decode a grid over a two-dimensional latent space."""
    latent_dim = session.train_codes.shape[1]
    if latent_dim != 2:
        raise UserError(f"what=manifold: expected a run with latent_dim=2; this one has latent_dim={latent_dim}")
    normal = isinstance(session.vae.p_z(), UnitNormal)
    picture = figures.manifold(session.vae, codes=None if normal else session.train_codes)
    return {"manifold.png": encode_png(picture)}


def rms_distances(pictures: Tensor, pixels: Tensor | StoredPixels) -> Tensor:
    """Return the root mean squared differences of pictures (n, C, H, W) and pixels (N, C, H, W), (n, N)."""
    batches = [torch.cdist(pictures.flatten(1), to_float(batch).flatten(1).cpu()) for batch in pixels.split(EVAL_BATCH)]
    return torch.cat(batches, 1) / pictures[0].numel() ** 0.5


def nearest(session: Session) -> Files:
    """Show samples beside the nearest training images, which reveals memorised images."""
    sampled = session.decode(session.sample(session.n or 8))
    pixels = session.data.images["train"].pixels
    names = session.data.images["train"].names
    distances, indices = rms_distances(sampled, pixels).topk(min(N_NEIGHBOURS, len(pixels)), largest=False)
    rows = []
    for picture, distance, row in zip(sampled, distances, indices, strict=True):
        captions = [
            f"{names[i]}  {d:.2f}" if names else f"{d:.2f}"
            for d, i in zip(distance.tolist(), row.tolist(), strict=True)
        ]
        rows.append(Row(torch.cat([picture[None], to_float(pixels[row]).cpu()]), ["sample", *captions], side=144))
    return {"nearest.png": encode_png(render_rows(rows))}


def walk(session: Session) -> Files:
    """Make a GIF of pictures that each move through sampled codes and return to the first."""
    n = session.n or 12
    if n > MAX_TILES:
        raise UserError(f"n={n}: expected {MAX_TILES} or fewer for what=walk")
    codes = session.sample(N_WAYPOINTS * n).view(N_WAYPOINTS, n, -1)
    return {"walk.gif": animate(session.decode(loop(codes, 16)), math.ceil(n**0.5))}


def fused_name(names: Sequence[str]) -> str:
    """Join the halves of two names, pikachu and charizard to pikaizard; "midpoint" if one is not only letters."""
    first, second = (name.split("-")[0] for name in names)
    letters = first.isalpha() and second.isalpha()
    return first[: -(-len(first) // 2)] + second[len(second) // 2 :] if letters else "midpoint"


def fuse(session: Session) -> Files:
    """Show the picture halfway between two images and a strip of the interpolation, or a page of random pairs."""
    if not session.fuse:
        return fuse_random(session)
    pair = resolve_images(session.data, "fuse", session.fuse)
    child = session.between(pair, torch.tensor([0.5]))
    ends = pair.x.cpu()
    family = Row(
        torch.cat([ends[:1], child, ends[1:]]), [pair.names[0], fused_name(pair.names), pair.names[1]], side=240
    )
    return {"fused.png": encode_png(render_rows([family, interpolation_row(session, pair)._replace(side=72)]))}


def fuse_random(session: Session) -> Files:
    """Show random pairs of training images with the picture halfway between them, two pairs per row."""
    n = session.n or min(8, len(session.data.images["train"].pixels) // 2)
    parents = random_images(session.data, "train", n, each=2)
    families = []
    for i in range(n):
        pair = SelectedImages(parents.x[2 * i : 2 * i + 2], parents.names[2 * i : 2 * i + 2])
        child = session.between(pair, torch.tensor([0.5]))
        images = torch.cat([pair.x[:1].cpu(), child, pair.x[1:].cpu()])
        families.append((images, [pair.names[0], fused_name(pair.names), pair.names[1]]))
    blank = torch.ones_like(families[0][0]), [""] * 3
    rows, width = [], 7 if n > 1 else 3
    for left, right in zip(families[::2], [*families[1::2], blank], strict=False):
        images = torch.cat([left[0], blank[0][:1], right[0]])
        rows.append(Row(images[:width], [*left[1], "", *right[1]][:width], side=144))
    return {"fused_random.png": encode_png(render_rows(rows))}


def operand_code(session: Session, identifier: str | int) -> tuple[Tensor, str]:
    """Return the mean code (D,) of the training images with a label, or else the code of an image, and its caption."""
    train = session.data.images["train"]
    chosen = str(identifier).removeprefix("label:")
    label = train.find_label(chosen)
    is_label = chosen != identifier or label is not None  # of a number, or of label:NAME
    if not is_label or (train.labels is None and isinstance(identifier, int)):
        image = resolve_image(session.data, "arithmetic", identifier)
        return session.encode(image.x)[0], image.names[0]
    if train.labels is None:
        raise UserError(f"arithmetic={identifier}: expected an image, because the training images have no labels")
    if label is None:
        labels = train.labels.unique().tolist()
        if chosen.isdecimal():
            labels = sorted(labels, key=lambda label: abs(label - int(chosen)))
        names = ", ".join(map(train.label_name, sorted(labels[:10])))
        raise UserError(f"arithmetic={identifier}: expected a label of the training images, such as {names}")
    rows = (train.labels == label).nonzero()[:MAX_TRAIN_CODES, 0]
    return session.encode(session.data.x("train", rows)).mean(0), f"mean of label {chosen}"


def arithmetic(session: Session) -> Files:
    """Decode a - b + c: the third code plus the difference between the first and the second."""
    if not session.arithmetic:
        raise UserError("arithmetic: expected three labels or images, such as arithmetic=[8,3,0] for 8 - 3 + 0")
    (a, b, c), names = zip(*(operand_code(session, identifier) for identifier in session.arithmetic), strict=True)
    captions = [f"{sign}{name}" for sign, name in zip(("", "\N{MINUS SIGN} ", "+ "), names, strict=True)]
    pictures = session.decode(torch.stack([a, b, c, a - b + c]))
    return {"arithmetic.png": encode_png(render_rows([Row(pictures, [*captions, "="], side=180)]))}


def training(session: Session) -> Files:
    """Make a GIF of the pictures that were kept during the training. It stays on the last one for a while."""
    frames, width = [], 560
    for path in sorted((session.folder / "film").glob("*.png"))[:MAX_FRAMES]:
        try:
            with open_image(path, MAX_FRAME_PIXELS) as image:
                zoom = max(1, round(width / image.width))
                frames.append(
                    image.convert("RGB").resize((zoom * image.width, zoom * image.height), Resampling.NEAREST)
                )
        except (OSError, SyntaxError, ValueError):
            raise UserError(f"what=training: {path} is damaged") from None
    if not frames:
        raise UserError(f"what=training: this run has no pictures of its training in {session.folder / 'film'}")
    if len({frame.size for frame in frames}) > 1:
        raise UserError(f"what=training: the pictures in {session.folder / 'film'} have different sizes")
    arrays = list(map(np.asarray, frames))
    return {"training.gif": encode_gif(arrays + HOLD * arrays[-1:], 150)}


GENERATORS: dict[str, Callable[[Session], Files]] = {
    "samples": samples,
    "reconstructions": reconstructions,
    "interpolation": interpolation,
    "traversal": traversal,
    "manifold": manifold,
    "nearest": nearest,
    "walk": walk,
    "fuse": fuse,
    "arithmetic": arithmetic,
    "training": training,
}
