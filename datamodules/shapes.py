"""Shapes of known factors, in the manner of dSprites (Matthey et al. 2017): 30,720 binary images of 64 x 64."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from datamodules.base import ImageDataModule, Images

SIDE = 64  # of an image, in pixels
STEP = 2  # between neighbouring positions, in pixels
SCALE = torch.linspace(8, 16, 5)  # radius of the circle around the shape, in pixels
ANGLE = torch.arange(8) * 90 / 8  # clockwise, in degrees; below 90, so that no two images are the same
CENTRE = 16.5 + STEP * torch.arange(16)  # of the circle, in pixels from the left or from the top

# Whether a point (u, v) is inside of the shape, which fits into the unit circle.
SHAPES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "square": lambda u, v: torch.maximum(u.abs(), v.abs()) <= 0.7,
    "ellipse": lambda u, v: u**2 + (v / 0.5) ** 2 <= 1,
    "heart": lambda u, v: (1.25**2 * (u**2 + v**2) - 1) ** 3 + 1.25**5 * u**2 * v**3 <= 0,
}


def draw() -> Tensor:
    """Return the images of all combinations, (shapes, scales, orientations, x, y, SIDE, SIDE), bool.

    The shapes are drawn in the middle of a larger canvas, and the images are parts of it.
    """
    scale, angle = SCALE[:, None, None, None], ANGLE.deg2rad()[:, None, None]
    canvas = SIDE + STEP * (len(CENTRE) - 1)
    offset = torch.arange(canvas) - (canvas - 1) / 2
    right, down = offset, offset[:, None]
    u = (angle.cos() * right + angle.sin() * down) / scale
    v = (angle.cos() * down - angle.sin() * right) / scale
    drawn = torch.stack([inside(u, v) for inside in SHAPES.values()])  # (shapes, scales, orientations, canvas, canvas)
    parts = drawn.unfold(4, SIDE, STEP).unfold(3, SIDE, STEP)  # (..., y, x, SIDE, SIDE), the last two are x and y
    return parts.flip(3, 4).permute(0, 1, 2, 4, 3, 6, 5)


@dataclass(eq=False)
class Shapes(ImageDataModule):
    """Three shapes of 5 scales and 8 orientations at 16 x 16 positions; labels are the shapes.

    Every combination is one image, so those of validation and test are combinations that are not trained on.
    """

    test_size: float

    def load(self) -> dict[str, Images]:
        values = {"shape": torch.arange(len(SHAPES)), "scale": SCALE, "orientation": ANGLE, "x": CENTRE, "y": CENTRE}
        indices = torch.cartesian_prod(*(torch.arange(len(known)) for known in values.values())).T
        factors = {name: known[i] for (name, known), i in zip(values.items(), indices, strict=True)}
        pixels = draw().reshape(-1, 1, SIDE, SIDE)
        images = Images(pixels, factors["shape"], classes=list(SHAPES), factors=factors)
        return self.split_off(images, self.test_size)
