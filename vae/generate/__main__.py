"""Make pictures with a finished run: python -m vae.generate [run=outputs/...] [what=NAME] [key=value ...].

The files are written to generated/ in the folder of the run. Without run=, the newest finished run in outputs/ is
used. `what` is one of the names below or, in quotes, a list: 'what=[samples,walk]'. Without it, everything that applies
is made. The keys that a name uses are on the right, with their defaults.

  samples            decoded samples                         n=100, temperature, source, label, candidates=1
  reconstructions    test images, or images=[...], beside their reconstructions    n=50, label, candidates=1
  styles             test images, or images=[...], and their latents decoded with each label            n=10
  interpolation      from one image to another, images=[a,b]: a strip and a GIF         interpolation, label
  traversal          one row per latent dimension, or dimensions=[3,7]; starts from images=[a]   n=10, label
  manifold           the decoded plane of a run with latent_dim=2                                      label
  nearest            samples beside the nearest training images              n=8, temperature, source, label
  walk               a GIF that moves through sampled latents and back      n=12, temperature, source, label
  fuse               fuse=[a,b]: the midpoint; fuse=random: a page  n=8, interpolation, label, candidates=16
  arithmetic         arithmetic=[a,b,c]: a - b + c, of labels (their mean latents) or of images        label
  training           a GIF, and with PyAV an MP4, of the training: samples, and validation images with reconstructions
  sequences          of a run of dataset=fasta: samples, coloured letters, k-mers           n=100, temperature, source

An image (a, b, c) is a name, as in fuse=[pikachu,charizard], the number of a test image, or a file, which is cropped
and scaled as for dataset=folder. A label is a name, as in arithmetic=[Sandal,Bag,Coat], or a number. In arithmetic=, a
number is a label if the images have labels; label:8 is always a label, and test:8 or train:8 an image. A traversal
shows the most informative dimensions first. The number under a nearest image is the root mean squared difference of
pixels in [0, 1]. styles, and the page of fuse=, keep the style of an image and change its label.

  source=prior             sample latents from p(z); source=mixture: from a Gaussian mixture fitted to training latents
  temperature=1.0          below 1, samples are closer to the modes
  interpolation=spherical  follow an arc; interpolation=linear: a straight line
  label=                   for a run with conditional=true: the label of all pictures, or a list with one for each; by
                           default, samples have all labels in turn, and other pictures those of their images
  candidates=              for a run whose pixels are sampled, as with dataset=pokemon: each picture is the one of so
                           many samples whose encoding is closest to its latent
  seed=0                   the same seed makes the same files
  dataset.path=            where the images of the run are now; what=training, and samples and walks from the prior,
                           do not need them
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, Field

from vae.api.run import load
from vae.config.command_line import parse_arguments, run_command
from vae.config.section import PositiveInt, Seed
from vae.errors import UserError, did_you_mean
from vae.runs.atomic_files import atomic_directory
from vae.terminal import show

# The keys that each `what` uses. All of them use run, what and seed.
SAMPLING_KEYS = ("n", "temperature", "source", "label")
ACCEPTED_KEYS = {
    "samples": (*SAMPLING_KEYS, "candidates"),
    "reconstructions": ("images", "n", "label", "candidates"),
    "styles": ("images", "n"),
    "interpolation": ("images", "interpolation", "label"),
    "traversal": ("n", "images", "dimensions", "label"),
    "manifold": ("label",),
    "nearest": SAMPLING_KEYS,
    "walk": SAMPLING_KEYS,
    "fuse": ("fuse", "interpolation", "n", "label", "candidates"),
    "arithmetic": ("arithmetic", "label"),
    "sequences": ("n", "temperature", "source"),
    "training": (),
}
RENAMED_KEYS = {"way": "interpolation", "from": "source"}  # names of earlier versions


class Arguments(BaseModel, strict=True, extra="forbid"):
    run: str = Field("", description="the folder of a finished run")
    trust: bool = False
    config_dir: str = ""
    data_path: str = Field("", alias="dataset.path", description="where the images of the run are now")
    what: Annotated[list[str], BeforeValidator(lambda what: what if isinstance(what, list) else [what])] = Field(
        [], min_length=1, description="a name, or a list such as [samples,walk]"
    )
    n: int | None = Field(None, ge=1, le=100, description="a whole number, 1 to 100")
    temperature: float = Field(1.0, ge=0, le=10, description="a number from 0 to 10")
    source: Literal["prior", "mixture"] = "prior"
    interpolation: Literal["linear", "spherical"] = "spherical"
    images: list[str | int] = Field(
        [], min_length=1, description="a list of names, numbers of test images or files, such as [3,7]"
    )
    fuse: Literal["random"] | Annotated[list[str | int], Field(min_length=2, max_length=2)] | None = Field(
        None, description="two names, numbers of test images or files, such as [3,7], or random"
    )
    arithmetic: list[str | int] | None = Field(
        None, min_length=3, max_length=3, description="three labels, names or files, such as [8,3,0]"
    )
    dimensions: list[PositiveInt] = Field(
        [], min_length=1, description="a list of numbers of latent dimensions, 1 or more, such as [3,7]"
    )
    label: str | int | Annotated[list[str | int], Field(min_length=1)] | None = Field(
        None, description="the name of a label, or a list of them, such as [8,3]"
    )
    candidates: int | None = Field(None, ge=1, le=100, description="a whole number, 1 to 100")
    seed: Seed = 0

    @property
    def implied(self) -> list[str]:
        """What fuse=, arithmetic=, images=, dimensions= and label= imply when `what` is not given."""
        implied = {
            "fuse": self.fuse,
            "arithmetic": self.arithmetic,
            "reconstructions": self.images,
            "interpolation": len(self.images) == 2,
            "traversal": self.dimensions,
        }
        return [name for name, given in implied.items() if given] or ["samples"] * (self.label is not None)

    def requested(self) -> list[str]:
        """Return `what`, or what the other keys imply.

        Raises UserError for an unknown name, and for a key that nothing requested uses.
        """
        for name in self.what:
            if name not in ACCEPTED_KEYS:
                raise UserError(
                    f"what={name}: expected one of {', '.join(ACCEPTED_KEYS)}, or a list [a,b]"
                    f"{did_you_mean(name, ACCEPTED_KEYS)}"
                )
        requested = self.what or self.implied
        for key in Arguments.model_fields:
            users = [name for name, keys in ACCEPTED_KEYS.items() if key in keys]
            if requested and users and key in self.model_fields_set and not {*users} & {*requested}:
                raise UserError(
                    f"{key}={getattr(self, key)}: expected only with what={' or '.join(users)},"
                    f" not with {', '.join(requested)}"
                )
        return requested


def generate(given: Arguments) -> list[Path]:
    """Make the requested files and write them all at the end. Return their paths.

    Raises UserError for a request that the run cannot satisfy.
    """
    requested = given.requested()
    run = load(given.run, given.trust, given.config_dir, given.data_path)
    import torch  # slow to import, so only after the arguments are checked

    from vae.generate.film import training
    from vae.generate.pictures import GENERATORS, Files
    from vae.generate.sequences import sequences
    from vae.generate.session import Session

    generators = GENERATORS | {"training": training, "sequences": sequences}
    if requested != ["sequences"]:
        run.about_images.check_pictures()
    pair = [] if given.fuse in (None, "random") else list(given.fuse or ())
    options = given.model_dump(exclude={"run", "trust", "config_dir", "data_path", "what"}) | {
        "fuse": pair,
        "arithmetic": given.arithmetic or (),
    }
    session = Session(run.vae, lambda: run.data, label_names=run.label_names, folder=run.folder, **options)
    files: Files = {}
    with atomic_directory(run.folder / "generated") as part:
        for name in requested or GENERATORS:
            torch.manual_seed(given.seed)  # a file does not depend on what is made before it
            try:
                with torch.inference_mode():
                    files |= generators[name](session)
            except UserError as error:
                if requested:
                    raise
                reason = str(error)
                show(f"skipped {reason if name in reason.partition(':')[0] else f'{name}: {reason}'}", sys.stderr)
        for file, content in files.items():
            (part / file).write_bytes(content)
    for key in ("images", "fuse", "arithmetic"):
        if numbers := [identifier for identifier in getattr(session, key) if isinstance(identifier, int)]:
            labels = key == "arithmetic" and session.data.images["train"].labels is not None
            meaning = f"labels; test:{numbers[0]} is a test image" if labels else "those of test images"
            show(f"{key}: the numbers are {meaning}", sys.stderr)
    return [run.folder / "generated" / file for file in files]


def main(typed: Sequence[str]) -> None:
    for key in (text.partition("=")[0] for text in typed):
        if key in RENAMED_KEYS:
            raise UserError(f"{key}: no such key; did you mean {RENAMED_KEYS[key]}?")
    given = parse_arguments(Arguments, typed)
    for path in generate(given):
        show(os.path.relpath(path))


def cli() -> int:
    return run_command(main, __doc__, "stopped; nothing was written")


if __name__ == "__main__":
    sys.exit(cli())
