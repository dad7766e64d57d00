"""What `vae.generate` can make of a finished run: one function per `what`, which returns the files by name.

Shapes: N images or codes, D latent dimensions, (C, H, W) one image, T interpolation steps.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from datamodules.base import EVAL_BATCH
from datamodules.pixels import to_float
from datamodules.stored import StoredPixels
from vae import figures
from vae.api.images import SelectedImages, random_images, random_pairs, resolve_image, resolve_images
from vae.api.trained_model import MAX_TRAIN_CODES
from vae.errors import UserError
from vae.figures import MAX_CLASSES
from vae.generate.session import Session
from vae.image_grid import Row, animate, encode_png, render_rows
from vae.model.interpolation import loop, smoothstep
from vae.model.priors import UnitNormal

Files = dict[str, bytes]  # contents by file name

N_STEPS = 11  # pictures in a strip or a row of a traversal
N_WAYPOINTS = 5  # codes that a walk passes through
MAX_TILES = 36  # pictures in one GIF
TRAVERSAL_RANGE = 2.5  # standard deviations on each side of the mean
N_NEIGHBOURS = 6


def samples(session: Session) -> Files:
    """Decode sampled codes."""
    n = session.n or 100
    y = session.labels(n)
    pictures = session.decode(session.sample(n, *y), *y, candidates=session.candidates or 1)
    page = encode_png(figures.grid(pictures, min(10, -(-n // round(n**0.5)))))
    return {"samples.png" if session.source == "prior" else "mixture_samples.png": page}


def reconstructions(session: Session) -> Files:
    """Show test images, or the selected ones, on the left of their reconstructions."""
    images = chosen_images(session, 50)
    z, y = session.encode_images(images), session.new_labels(images)
    pictures = session.decode(z, *y, candidates=session.candidates or 1)
    pairs = torch.stack([images.x.cpu(), pictures], 1).flatten(0, 1)
    return {"reconstructions.png": encode_png(figures.grid(pairs, 2 * min(5, len(images.x))))}


def chosen_images(session: Session, n: int) -> SelectedImages:
    """Return the images of images=, or else n random test images; the key n= replaces this number."""
    if session.images:
        return resolve_images(session.data, "images", session.images)
    return random_images(session.data, "test", session.n or min(n, len(session.data.images["test"].pixels)))


def styles(session: Session) -> Files:
    """Show images, and their codes decoded with each label: the style of a row stays, and the label of a column."""
    if not session.label_names:
        raise UserError("what=styles: expected a run with conditional=true")
    images = chosen_images(session, 10)
    names = session.label_names[:MAX_CLASSES]
    (y,) = session.find_labels("label", names, len(names))
    z = session.encode_images(images)[:, None].expand(-1, len(names), -1)
    rows = torch.cat([images.x.cpu()[:, None], session.decode(z, y.expand(len(z), -1, -1))], 1)
    captions = [*[()] * (len(rows) - 1), ("image", *names)]
    page = [Row(row, caption, side=56) for row, caption in zip(rows, captions, strict=True)]
    return {"styles.png": encode_png(render_rows(page))}


def image_pair(session: Session) -> SelectedImages:
    """Return the two images of images=[a,b], or two random training images."""
    if session.images and len(session.images) != 2:
        raise UserError(
            f"images: expected two images for an interpolation, such as images=[0,1]; got {len(session.images)}"
        )
    if not session.images:
        return random_images(session.data, "train", 2)
    return resolve_images(session.data, "images", session.images)


def interpolation_row(pair: SelectedImages, between: Callable[[SelectedImages, Tensor], Tensor]) -> Row:
    """Interpolate between two images; the captions are the percentage of the second."""
    t = torch.linspace(0, 1, N_STEPS)
    return Row(between(pair, t), [f"{fraction:.0%}" for fraction in t.tolist()])


def interpolation(session: Session) -> Files:
    """Interpolate between two images: a strip, and a GIF that goes to the second image and back."""
    pair = image_pair(session)
    between, percent = interpolation_row(pair, session.between)[:2]
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
    code = session.encode_images(start)[0]
    mean, sd = session.aggregate_posterior_stats
    steps = torch.linspace(-TRAVERSAL_RANGE, TRAVERSAL_RANGE, N_STEPS, device=session.device)
    rows = []
    for d in [d - 1 for d in session.dimensions] or order[: session.n or 10]:
        codes = code.repeat(N_STEPS, 1)
        codes[:, d] = mean[d] + sd[d] * steps
        rows.append(
            Row(
                session.decode(codes, *session.new_labels(start)),
                label=f"z{d + 1}   {information[d]:.2f} {information_unit}",
                side=72,
            )
        )
    rows[-1] = rows[-1]._replace(captions=[f"{step:+.1f} sd".replace("-", "\N{MINUS SIGN}") for step in steps.tolist()])
    return {"traversal.png": encode_png(render_rows([Row(start.x, start.names, "start", 72), *rows]))}


def manifold(session: Session) -> Files:
    """Decode a grid over a two-dimensional latent space."""
    latent_dim = session.train_codes.shape[1]
    if latent_dim != 2:
        raise UserError(f"what=manifold: expected a run with latent_dim=2; this one has latent_dim={latent_dim}")
    vae = session.vae.given(*(label.to(session.device) for label in session.labels(1)))
    normal = isinstance(vae.p_z(), UnitNormal)
    picture = figures.manifold(vae, codes=None if normal else session.train_codes)
    return {"manifold.png": encode_png(picture)}


def rms_distances(pictures: Tensor, pixels: Tensor | StoredPixels) -> Tensor:
    """Return the root mean squared differences of pictures (n, C, H, W) and pixels (N, C, H, W), (n, N)."""
    batches = [torch.cdist(pictures.flatten(1), to_float(batch).flatten(1).cpu()) for batch in pixels.split(EVAL_BATCH)]
    return torch.cat(batches, 1) / pictures[0].numel() ** 0.5


def nearest(session: Session) -> Files:
    """Show samples beside the nearest training images, which reveals memorised images."""
    y = session.labels(session.n or 8)
    sampled = session.decode(session.sample(session.n or 8, *y), *y)
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
    y = session.labels(n)
    codes = session.sample(N_WAYPOINTS * n, *(label.repeat(N_WAYPOINTS, 1) for label in y)).view(N_WAYPOINTS, n, -1)
    path = loop(codes, 16)
    frames = session.decode(path, *(label.expand(len(path), -1, -1) for label in y))
    return {"walk.gif": animate(frames, math.ceil(n**0.5))}


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
    strip = interpolation_row(pair, session.fusions)._replace(side=72)
    (ends, child), names = (pair.x.cpu(), strip.images[N_STEPS // 2]), pair.names
    family = Row(torch.stack([ends[0], child, ends[1]]), [names[0], fused_name(names), names[1]], side=240)
    return {"fused.png": encode_png(render_rows([family, strip, *label_rows(session, pair)]))}


def label_rows(session: Session, pair: SelectedImages) -> list[Row]:
    """Change the label from that of the first image to that of the second, in the style of each.

    Returns nothing if the labels are the same, if the model has none, or if `label` is that of all pictures.
    """
    y = session.own_labels(pair)
    if not y or session.label is not None or torch.equal(*y[0]):
        return []
    t, codes = torch.linspace(0, 1, N_STEPS), session.encode_images(pair)
    pictures = (session.interpolate(code.expand(2, -1), t, "linear", *y) for code in codes)
    return [Row(row, label=f"style of {name}", side=72) for row, name in zip(pictures, pair.names, strict=True)]


def fuse_random(session: Session) -> Files:
    """Show random pairs of training images with the picture halfway between them, two pairs per row."""
    n = session.n or min(8, len(session.data.images["train"].pixels) // 2)
    parents = random_pairs(session.data, "train", n)
    families = []
    for i in range(n):
        two = slice(2 * i, 2 * i + 2)
        pair = SelectedImages(parents.x[two], parents.names[two], tuple(label[two] for label in parents.y))
        child = session.fusions(pair, torch.tensor([0.5]))
        images = torch.cat([pair.x[:1].cpu(), child, pair.x[1:].cpu()])
        families.append((images, [pair.names[0], fused_name(pair.names), pair.names[1]]))
    blank = torch.ones_like(families[0][0]), [""] * 3
    rows, width = [], 7 if n > 1 else 3
    for left, right in zip(families[::2], [*families[1::2], blank], strict=False):
        images = torch.cat([left[0], blank[0][:1], right[0]])
        rows.append(Row(images[:width], [*left[1], "", *right[1]][:width], side=144))
    return {"fused_random.png": encode_png(render_rows(rows))}


def operand_code(session: Session, identifier: str | int) -> tuple[Tensor, tuple[Tensor, ...], str]:
    """Return the mean code (D,) of the training images with a label, or else the code of an image; and its caption.

    Between them are the labels, (1, labels), that a conditional model is given.
    """
    train = session.data.images["train"]
    chosen = str(identifier).removeprefix("label:")
    label = train.find_label(chosen)
    is_label = chosen != identifier or label is not None  # of a number, or of label:NAME
    if not is_label or (train.labels is None and isinstance(identifier, int)):
        image = resolve_image(session.data, "arithmetic", identifier)
        return session.encode_images(image)[0], session.new_labels(image), image.names[0]
    if train.labels is None:
        raise UserError(f"arithmetic={identifier}: expected an image, because the training images have no labels")
    if label is None:
        labels = train.labels.unique().tolist()
        if chosen.isdecimal():
            labels = sorted(labels, key=lambda label: abs(label - int(chosen)))
        names = ", ".join(map(train.label_name, sorted(labels[:10])))
        raise UserError(f"arithmetic={identifier}: expected a label of the training images, such as {names}")
    rows = (train.labels == label).nonzero()[:MAX_TRAIN_CODES, 0]
    images = SelectedImages(session.data.x("train", rows), [], session.data.y("train", rows))
    y = tuple(label[:1] for label in session.new_labels(images))
    return session.encode_images(images).mean(0), y, f"mean of label {chosen}"


def arithmetic(session: Session) -> Files:
    """Decode a - b + c: the third code plus the difference between the first and the second, with the third label."""
    if not session.arithmetic:
        raise UserError("arithmetic: expected three labels or images, such as arithmetic=[8,3,0] for 8 - 3 + 0")
    operands = (operand_code(session, identifier) for identifier in session.arithmetic)
    (a, b, c), labels, names = zip(*operands, strict=True)
    captions = [f"{sign}{name}" for sign, name in zip(("", "\N{MINUS SIGN} ", "+ "), names, strict=True)]
    y = map(torch.cat, zip(*labels, labels[2], strict=True))
    pictures = session.decode(torch.stack([a, b, c, a - b + c]), *y)
    return {"arithmetic.png": encode_png(render_rows([Row(pictures, [*captions, "="], side=180)]))}


GENERATORS: dict[str, Callable[[Session], Files]] = {
    "samples": samples,
    "reconstructions": reconstructions,
    "styles": styles,
    "interpolation": interpolation,
    "traversal": traversal,
    "manifold": manifold,
    "nearest": nearest,
    "walk": walk,
    "fuse": fuse,
    "arithmetic": arithmetic,
}
