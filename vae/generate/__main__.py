"""Make pictures with a finished run: python -m vae.generate [run=outputs/...] [what=NAME] [key=value ...].

They go to generated/ in the folder of the run, by default of the one that finished last in outputs/. `what` is one
of these or a list such as [samples,walk], and unless said, all that fit:

  samples            pictures of drawn codes                                          n=100, temperature, from
  reconstructions    test images, or images=[...], beside what the model makes of them             n=50
  interpolation      from one image to another, images=[a,b]; a strip and a film                   way
  traversal          latent dimensions moved, those that carry most first, or dimensions=[3,7], images=[a]     n=10
  manifold           the whole plane, of a run with latent_dim=2
  nearest            drawn pictures beside the nearest training images, and how far    n=8, temperature, from
  walk               a film through drawn codes and back                              n=12, temperature, from
  fuse               fuse=[a,b]: both parents, the child, the way; fuse=random: a page of children  n=8, way
  arithmetic         arithmetic=[a,b,c]: a - b + c, of labels (their mean codes) or of images

An image (a, b, c) is its name, as fuse=[pikachu,charizard], the number of a test image, or a file, which is cut and
scaled as dataset=folder does. temperature=0.7 draws codes nearer to the peaks of the prior, 1 as it is; from=mixture
draws them from a mixture fitted to the codes of training images; way=linear goes straight, way=spherical on an arc.
How far is the root of the mean squared difference of pixels in [0, 1].
The same seed=0 makes the same files.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, Field

from vae.config.command_line import parse_arguments, run_command
from vae.config.schema import PositiveInt, Seed
from vae.errors import UserError, did_you_mean
from vae.runs.atomic_files import atomic_directory
from vae.runs.run_folder import latest_finished_run, read_finished_run

# The keys each takes; run, what and seed are for all.
DRAWN = ("n", "temperature", "from")
TAKES = {
    "samples": DRAWN,
    "reconstructions": ("images", "n"),
    "interpolation": ("images", "way"),
    "traversal": ("n", "images", "dimensions"),
    "manifold": (),
    "nearest": DRAWN,
    "walk": DRAWN,
    "fuse": ("fuse", "way", "n"),
    "arithmetic": ("arithmetic",),
}


class Arguments(BaseModel, strict=True, extra="forbid"):
    run: str = Field("", description="the folder of a finished run")
    what: Annotated[list[str], BeforeValidator(lambda what: what if isinstance(what, list) else [what])] = Field(
        [], min_length=1, description="a name, or a list such as [samples,walk]"
    )
    n: int | None = Field(None, ge=1, le=100, description="a whole number, 1 to 100")
    temperature: float = Field(1.0, ge=0, le=10, description="a number from 0 to 10")
    source: Literal["prior", "mixture"] = Field("prior", alias="from")
    way: Literal["linear", "spherical"] = "spherical"
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
    seed: Seed = 0

    @property
    def implied(self) -> list[str]:
        """What is wanted if nobody says: that which fuse=, arithmetic= or images= is for."""
        asked = {
            "fuse": self.fuse,
            "arithmetic": self.arithmetic,
            "reconstructions": self.images,
            "interpolation": len(self.images) == 2,
            "traversal": self.dimensions,
        }
        return [name for name, given in asked.items() if given]

    @property
    def wanted(self) -> list[str]:
        """`what`, or what is implied; UserError where that is no name, or takes none of a key that was given."""
        for name in self.what:
            if name not in TAKES:
                raise UserError(
                    f"what={name}: expected one of {', '.join(TAKES)}, or a list [a,b]{did_you_mean(name, TAKES)}"
                )
        wanted = self.what or self.implied
        for field, about in Arguments.model_fields.items():
            key = about.alias or field
            takers = [name for name, keys in TAKES.items() if key in keys]
            if wanted and takers and field in self.model_fields_set and not {*takers} & {*wanted}:
                given = getattr(self, field)
                raise UserError(f"{key}={given}: expected only for {', '.join(takers)}, not for {', '.join(wanted)}")
        return wanted


def generate(folder: Path, given: Arguments) -> list[Path]:
    """The files, written when all are made; UserError for what cannot be."""
    wanted = given.wanted
    cfg = read_finished_run(folder).config
    import torch  # only now

    from vae.generate.pictures import WHAT, Made
    from vae.generate.session import Session
    from vae.training.experiment import load_dataset, load_trained

    data = load_dataset(cfg)
    vae = load_trained(cfg, data.shape, folder).vae
    pair = [] if given.fuse in (None, "random") else list(given.fuse or ())
    typed = given.model_dump(exclude={"run", "what"}) | {"fuse": pair, "arithmetic": given.arithmetic or ()}
    studio = Session(vae, data, **typed)
    made: Made = {}
    with atomic_directory(folder / "generated") as part:
        for name in wanted or WHAT:
            torch.manual_seed(given.seed)  # so that a file is the same, whatever else is made
            try:
                with torch.inference_mode():
                    made |= WHAT[name](studio)
            except UserError as error:
                if wanted:
                    raise
                reason = str(error)
                print("left out", reason if name in reason.partition(":")[0] else f"{name}: {reason}", file=sys.stderr)
        for file, content in made.items():
            (part / file).write_bytes(content)
    return [folder / "generated" / file for file in made]


def main(typed: Sequence[str]) -> None:
    given = parse_arguments(Arguments, typed)
    for path in generate(Path(given.run) if given.run else latest_finished_run(Path("outputs")), given):
        print(os.path.relpath(path))


def cli() -> int:
    return run_command(main, __doc__, "stopped; nothing was written")


if __name__ == "__main__":
    sys.exit(cli())
