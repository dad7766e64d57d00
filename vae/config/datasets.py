"""Allowed values of dataset and its keys. Ranges belong to the class that has the key."""

from typing import Annotated, Literal

from pydantic import Field

from vae.config.section import (
    SPLIT_SIZE,
    ImageSize,
    NonNegativeFloat,
    Part,
    Path,
    PositiveInt,
    Seed,
    SplitSize,
    Switch,
    UnitInterval,
)


class Dataset(Part):
    batch_size: PositiveInt
    seed: Seed
    val_size: SplitSize | None = Field(None, description=SPLIT_SIZE)
    test_size: SplitSize | None = Field(None, description=SPLIT_SIZE)
    split_seed: Seed
    binarize: Literal["dynamic", "static", "threshold", "none"]


class MNIST(Dataset, target="datamodules.mnist.MNIST"):
    binarize: Literal["dynamic", "static", "threshold", "larochelle", "none"]  # type: ignore[assignment]


class EMNIST(Dataset, target="datamodules.emnist.EMNIST"):
    subset: Literal["byclass", "bymerge", "balanced", "letters", "digits", "mnist"]


class Frey(Dataset, target="datamodules.frey.Frey"):
    split: Literal["random", "sequential"]


class Pokemon(Dataset, target="datamodules.pokemon.Pokemon"):
    size: ImageSize
    generation: Annotated[int, Field(ge=1, le=8)] | None = Field(description="1 to 8, or null for all")
    shiny: Switch
    flips: Switch
    shift: int = Field(ge=0, description="a whole number, 0 or more")
    recolour: UnitInterval = 0.0  # older runs lack this key


class Emoji(Dataset, target="datamodules.emoji.Emoji"):
    size: ImageSize
    flips: Switch


class Folder(Dataset, target="datamodules.folder.Folder"):
    path: Path
    size: ImageSize
    colour: Literal["rgb", "grey"]


class Fasta(Dataset, target="datamodules.fasta.Fasta"):
    path: Path
    length: Annotated[int, Field(ge=4, le=4096, description="a whole number, 4 to 4096")]
    stride: PositiveInt
    reverse_complement: Switch


class Array(Dataset, target="datamodules.array.Array"):
    path: Path
    key: str = Field(description="a name")
    labels: str | None = Field(description="a name, a .npy file or null")
    layout: Literal["ND", "NHW", "NHWC", "NCHW"] | None = Field(description="ND, NHW, NHWC, NCHW or null")
    range: Annotated[list[float], Field(min_length=2, max_length=2)] | None = Field(description="[low,high] or null")
    max_memory: NonNegativeFloat = Field(description="a number of GB, 0 or more")
