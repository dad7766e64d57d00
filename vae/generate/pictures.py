"""What can be made of a finished run: each function makes the files of one `what` of vae.generate.

Shapes: N images or codes, D latent dimensions, (C, H, W) one image, T steps of a way.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from datamodules.base import EVAL_BATCH, to_float
from vae import figures
from vae.errors import UserError
from vae.generate.image_grid import Row, moving, png, sheet
from vae.generate.image_selection import SelectedImages, all_of, one, some
from vae.generate.interpolation import eased, loop
from vae.generate.session import KNOWN, Session
from vae.model.priors import UnitNormal

Made = dict[str, bytes]  # of files, by their names

STRIP = 11  # images from one to the other
N_WAYPOINTS = 5  # codes that a walk comes through
MAX_TILES = 36  # pictures in a film, at most
WIDEST = 2.5  # standard deviations that a traversal goes to each side


def samples(studio: Session) -> Made:
    """Pictures of drawn codes."""
    n = studio.n or 100
    picture = figures.grid(studio.pictures(studio.drawn(n)), min(10, -(-n // round(n**0.5))))
    return {"samples.png" if studio.source == "prior" else "mixture_samples.png": png(picture)}


def reconstructions(studio: Session) -> Made:
    """Test images, or those chosen, each left of what the model makes of it."""
    if studio.images:
        x = all_of(studio.data, "images", studio.images).x
    else:
        most = len(studio.data.images["test"].pixels)
        x = some(studio.data, "test", studio.n or min(50, most)).x
    pairs = torch.stack([x.cpu(), studio.pictures(studio.codes(x))], 1).flatten(0, 1)
    return {"reconstructions.png": png(figures.grid(pairs, 2 * min(5, len(x))))}


def pair_of(studio: Session) -> SelectedImages:
    """The two images of `images`, or any two of the training images."""
    if studio.images and len(studio.images) != 2:
        raise UserError(
            f"images: expected two of them to go between, such as images=[0,1]; there are {len(studio.images)}"
        )
    return all_of(studio.data, "images", studio.images) if studio.images else some(studio.data, "train", 2)


def strip(studio: Session, pair: SelectedImages) -> Row:
    """From the one image to the other, with the part of the second in percent."""
    t = torch.linspace(0, 1, STRIP)
    return Row(studio.between(pair, t), [f"{part:.0%}" for part in t.tolist()])


def interpolation(studio: Session) -> Made:
    """From one image to another: as a strip between the two, and as a film that goes there and back."""
    pair = pair_of(studio)
    between, percent = strip(studio, pair)[:2]
    ends = pair.x.cpu()
    row = Row(torch.cat([ends[:1], between, ends[1:]]), [pair.names[0], *percent, pair.names[1]])
    t = torch.cat([eased(24), torch.ones(1)])
    there = studio.between(pair, torch.cat([t, torch.ones(8), t.flip(0), torch.zeros(8)]))
    return {"interpolation.png": png(sheet([row])), "interpolation.gif": moving(there[:, None], 1, width=280)}


def traversal(studio: Session) -> Made:
    """A row for each latent dimension, those that carry most first: one image, with this dimension alone moved."""
    if len(studio.images) > 1:
        raise UserError(f"images: expected one of them to start from; there are {len(studio.images)}")
    amount, unit_of_it = studio.carried
    carry = amount.argsort(descending=True).tolist()
    if wrong := [d for d in studio.dimensions if d > len(carry)]:
        most = ", ".join(str(d + 1) for d in carry[:3])
        raise UserError(f"dimensions={wrong[0]}: expected 1 to {len(carry)}; those that carry most are {most}")
    start = all_of(studio.data, "images", studio.images) if studio.images else some(studio.data, "train", 1)
    code = studio.codes(start.x)[0]
    mean, sd = studio.spread
    steps = torch.linspace(-WIDEST, WIDEST, STRIP, device=studio.device)
    rows = []
    for d in [d - 1 for d in studio.dimensions] or carry[: studio.n or 10]:
        codes = code.repeat(STRIP, 1)
        codes[:, d] = mean[d] + sd[d] * steps
        rows.append(Row(studio.pictures(codes), label=f"z{d + 1}   {amount[d]:.2f} {unit_of_it}", side=72))
    rows[-1] = rows[-1]._replace(captions=[f"{step:+.1f} sd".replace("-", "\N{MINUS SIGN}") for step in steps.tolist()])
    return {"traversal.png": png(sheet([Row(start.x, start.names, "from", 72), *rows]))}


def manifold(studio: Session) -> Made:
    """Of two dimensions, all that there is between their quantiles."""
    latent_dim = studio.known.shape[1]
    if latent_dim != 2:
        raise UserError(
            f"what=manifold: expected a run with latent_dim=2, to lie in the plane; here it is {latent_dim}"
        )
    normal = isinstance(studio.vae.p_z(), UnitNormal)
    return {"manifold.png": png(figures.manifold(studio.vae, codes=None if normal else studio.known))}


def distances(pictures: Tensor, pixels: Tensor) -> Tensor:
    """Root mean squares of the differences of pictures (n, C, H, W) and pixels (N, C, H, W), (n, N)."""
    parts = [torch.cdist(pictures.flatten(1), to_float(part).flatten(1).cpu()) for part in pixels.split(EVAL_BATCH)]
    return torch.cat(parts, 1) / pictures[0].numel() ** 0.5


def nearest(studio: Session) -> Made:
    """Drawn pictures, each beside the training images that are nearest to it, so that memorising is seen."""
    drawn = studio.pictures(studio.drawn(studio.n or 8))
    pixels = studio.data.images["train"].pixels
    names = studio.data.images["train"].names
    distance, order = distances(drawn, pixels).topk(min(6, len(pixels)), largest=False)
    rows = []
    for picture, far, row in zip(drawn, distance, order, strict=True):
        called = [
            f"{names[i]}  {d:.2f}" if names else f"{d:.2f}" for d, i in zip(far.tolist(), row.tolist(), strict=True)
        ]
        rows.append(Row(torch.cat([picture[None], to_float(pixels[row]).cpu()]), ["sample", *called], side=144))
    return {"nearest.png": png(sheet(rows))}


def walk(studio: Session) -> Made:
    """A film of many pictures, each of which goes through drawn codes and comes back to the first."""
    n = studio.n or 12
    if n > MAX_TILES:
        raise UserError(f"n={n}: expected {MAX_TILES} at most, for a film")
    codes = studio.drawn(N_WAYPOINTS * n).view(N_WAYPOINTS, n, -1)
    return {"walk.gif": moving(studio.pictures(loop(codes, 16)), math.ceil(n**0.5))}


def fused_name(names: Sequence[str]) -> str:
    """pikachu and charizard: pikaizard; nothing of what has no name of letters."""
    first, second = (name.split("-")[0] for name in names)
    letters = first.isalpha() and second.isalpha()
    return first[: -(-len(first) // 2)] + second[len(second) // 2 :] if letters else "the middle"


def fuse(studio: Session) -> Made:
    """Two images, the picture in the middle between their codes, and a strip of the way; or a page of such middles."""
    if not studio.fuse:
        return fuse_random(studio)
    pair = all_of(studio.data, "fuse", studio.fuse)
    child = studio.between(pair, torch.tensor([0.5]))
    ends = pair.x.cpu()
    family = Row(
        torch.cat([ends[:1], child, ends[1:]]), [pair.names[0], fused_name(pair.names), pair.names[1]], side=240
    )
    return {"fused.png": png(sheet([family, strip(studio, pair)._replace(side=72)]))}


def fuse_random(studio: Session) -> Made:
    """Of as many random pairs of training images: the parents, and the child between them; two families a row."""
    n = studio.n or min(8, len(studio.data.images["train"].pixels) // 2)
    parents = some(studio.data, "train", n, each=2)
    families = []
    for i in range(n):
        pair = SelectedImages(parents.x[2 * i : 2 * i + 2], parents.names[2 * i : 2 * i + 2])
        child = studio.between(pair, torch.tensor([0.5]))
        images = torch.cat([pair.x[:1].cpu(), child, pair.x[1:].cpu()])
        families.append((images, [pair.names[0], fused_name(pair.names), pair.names[1]]))
    nobody = torch.ones_like(families[0][0]), [""] * 3
    rows, wide = [], 7 if n > 1 else 3
    for left, right in zip(families[::2], [*families[1::2], nobody], strict=False):
        images = torch.cat([left[0], nobody[0][:1], right[0]])
        rows.append(Row(images[:wide], [*left[1], "", *right[1]][:wide], side=144))
    return {"fused_random.png": png(sheet(rows))}


def term(studio: Session, meant: str | int) -> tuple[Tensor, str]:
    """The mean code, (D,), of the training images with this label; of what is no label, the code of that image."""
    labels = studio.data.images["train"].labels
    if labels is None or not isinstance(meant, int):
        chosen = one(studio.data, "arithmetic", meant)
        return studio.codes(chosen.x)[0], chosen.names[0]
    rows = (labels == meant).nonzero()[:KNOWN, 0]
    if not len(rows):
        kinds = sorted(labels.unique().tolist(), key=lambda kind: (abs(kind - meant), kind))[:10]
        raise UserError(f"arithmetic={meant}: expected a label of training images, such as {sorted(kinds)}")
    return studio.codes(studio.data.x("train", rows)).mean(0), f"all of {meant}"


def arithmetic(studio: Session) -> Made:
    """The first code less the second plus the third: the third, with what the first has and the second has not."""
    if not studio.arithmetic:
        raise UserError("arithmetic: expected three labels or images, such as arithmetic=[8,3,0] for 8 - 3 + 0")
    (a, b, c), names = zip(*(term(studio, meant) for meant in studio.arithmetic), strict=True)
    captions = [f"{sign}{name}" for sign, name in zip(("", "\N{MINUS SIGN} ", "+ "), names, strict=True)]
    shown = studio.pictures(torch.stack([a, b, c, a - b + c]))
    return {"arithmetic.png": png(sheet([Row(shown, [*captions, "="], side=180)]))}


WHAT: dict[str, Callable[[Session], Made]] = {
    "samples": samples,
    "reconstructions": reconstructions,
    "interpolation": interpolation,
    "traversal": traversal,
    "manifold": manifold,
    "nearest": nearest,
    "walk": walk,
    "fuse": fuse,
    "arithmetic": arithmetic,
}
