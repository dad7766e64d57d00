"""A GIF of the training, made of the small pictures that the run kept."""

import numpy as np
from PIL.Image import Resampling

from datamodules.image_files import open_image
from vae.errors import UserError
from vae.generate.image_grid import encode_gif
from vae.generate.pictures import Files
from vae.generate.session import Session

MAX_FRAMES, MAX_PIXELS = 200, 2_000_000  # of a GIF, and of one of its pictures
SIDE = 560  # pixels of a picture in the GIF: smaller ones are enlarged by a whole factor
HOLD = 12  # frames for which the GIF stays on the last picture


def training(session: Session) -> Files:
    """Make a GIF of the pictures that were kept during the training. It stays on the last one for a while."""
    folder, frames = session.folder / "film", []
    for path in sorted(folder.glob("*.png"))[:MAX_FRAMES]:
        try:
            with open_image(path, MAX_PIXELS) as image:
                zoom = max(1, round(SIDE / max(image.size)))
                size = zoom * image.width, zoom * image.height
                frames.append(np.asarray(image.convert("RGB").resize(size, Resampling.NEAREST)))
        except (OSError, SyntaxError, ValueError):
            raise UserError(f"what=training: {path} is damaged") from None
    if not frames:
        raise UserError(f"what=training: this run has no pictures of its training in {folder}")
    if len({frame.shape for frame in frames}) > 1:
        raise UserError(f"what=training: the pictures in {folder} have different sizes")
    return {"training.gif": encode_gif(frames + HOLD * frames[-1:], 150)}
