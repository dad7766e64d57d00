"""A film of the training, made of the small pictures that the run kept."""

from importlib.util import find_spec

import numpy as np
from PIL.Image import Resampling

from datamodules.image_files import open_image
from vae.errors import UserError
from vae.generate.pictures import Files
from vae.generate.session import Session
from vae.image_grid import encode_gif, encode_mp4

MAX_FRAMES, MAX_PIXELS = 200, 2_000_000  # of a film, and of one of its pictures
SIDE = 560  # pixels of a picture in the film: smaller ones are enlarged by a whole factor
MAX_MP4_SIDE = 4096  # pixels, which every player of H.264 can show
MILLISECONDS = 150  # per frame
HOLD = 12  # frames for which the film stays on the last picture


def training(session: Session) -> Files:
    """Make a GIF, and an MP4 if PyAV is installed, of the pictures that were kept during the training.

    It stays on the last one for a while.
    """
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
    frames += HOLD * frames[-1:]
    files: Files = {"training.gif": encode_gif(frames, MILLISECONDS)}
    if find_spec("av") and max(frames[0].shape) <= MAX_MP4_SIDE:
        files["training.mp4"] = encode_mp4(frames, MILLISECONDS)
    return files
