"""The keys there are and the values they may have; one clear line for others. Nothing here imports torch."""

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, cast

from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, BeforeValidator, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

CONF = Path(__file__).parent.parent / "conf"

Count = Annotated[int, Field(ge=1, description="a whole number, 1 or more")]
Seed = Annotated[int, Field(ge=0, lt=2**32, description="a whole number, 0 or more, below 2^32")]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False, description="a number above 0")]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False, description="a number of 0 or more")]
Part = Annotated[float, Field(gt=0, lt=1)]
HiddenSize = Annotated[
    list[Count],
    BeforeValidator(lambda size: size if isinstance(size, list) else [size]),
    Field(min_length=1, description="a whole number, 1 or more, or a list of them such as [400,200]"),
]
Between = Annotated[float, Field(gt=0, lt=1, description="a number between 0 and 1")]
Size = Annotated[Count | Part, Field(description="a whole number, 1 or more, or a part between 0 and 1")]
Compile = Annotated[bool | Literal["auto"], Field(description="auto, true or false")]
Side = Annotated[int, Field(ge=1, le=1024)]

Model = TypeVar("Model", bound=BaseModel)


class UserError(Exception):
    """What the person at the keyboard can put right: shown as its message alone, with exit code 2."""


REFUSED = (UserError, HydraException, OmegaConfBaseException)


def str_of_number(value: Any) -> Any:
    """A folder may be called 2024."""
    return str(value) if isinstance(value, int) else value


class Section(BaseModel, strict=True, extra="allow"):
    """The keys of a group that have a range; its other keys are what its class takes them to be."""


class Dataset(Section):
    batch_size: Count
    seed: Seed
    val_size: Size
    test_size: Size = 1
    split_seed: Seed
    binarize: Literal["dynamic", "static", "threshold", "none"]
    split: Literal["random", "sequential"] = "random"
    generation: Annotated[int, Field(ge=1, le=8)] | None = Field(None, description="1 to 8, or null for all")
    shiny: bool = Field(False, description="true or false")
    flips: bool = Field(False, description="true or false")
    shift: int = Field(0, ge=0, description="a whole number, 0 or more")
    path: Annotated[str, BeforeValidator(str_of_number)] = Field(".", min_length=1, description="a folder of images")
    colour: Literal["rgb", "grey"] = "rgb"
    size: Side | Annotated[list[Side], Field(min_length=2, max_length=2)] = Field(
        1, description="a whole number, 1 to 1024, or two of them, [height,width]"
    )


class Schedule(Section):
    warmup: Between = 0.5
    cycles: Count = 1
    stages: Annotated[int, Field(ge=2, le=16, description="a whole number, 2 to 16")] = 2


class Objective(Section):
    K: Count
    beta: Weight = 1.0
    gamma: Weight = 1.0
    capacity: Weight = 1.0
    nats: Weight = 1.0
    schedule: Schedule = Schedule()


class Posterior(Section):
    latent_dim: Count
    steps: Count = 1
    hidden_size: Count = 1
    context: Count = 1


class Prior(Section):
    top_dim: Count = 1
    components: Count = 1
    pseudo_inputs: Count = 1
    mean: Annotated[float, Field(ge=0, le=1, description="a number from 0 to 1")] = 0.5
    steps: Count = 1
    hidden_size: HiddenSize = [1]


class Likelihood(Section):
    sigma: Annotated[float, Field(ge=0.003, description="a number of 0.003 or more")] = 1.0
    learned: bool = Field(True, description="true or false")
    scale: Literal["pixel", "shared"] = "pixel"
    levels: Annotated[int, Field(ge=2, le=256, description="a whole number, 2 to 256")] = 256
    K: Count = 1
    widest: Positive = 1.0
    paper: Annotated[float, Field(ge=0, le=1, description="a number from 0 to 1")] = 1.0
    palette: Count = 1
    maps: Count = 1
    radius: Count = 1
    width: Count = 1
    dilations: list[Count] = Field([], description="a list of whole numbers, 1 or more, such as [1,2]")
    blind: Annotated[float, Field(ge=0, lt=1, description="a number of 0 or more, below 1")] = 0.0
    temperature: Weight = 1.0


class Convolutions(Section):
    channels: Annotated[list[Count], Field(min_length=1)] = Field([1], description="a list of whole numbers, 1 or more")


class Architecture(Section):
    encoder: Convolutions
    decoder: Convolutions


class Optimizer(Section):
    lr: Positive
    weight_decay: Weight = 0.0
    alpha: Annotated[float, Field(ge=0, lt=1, description="a number of 0 or more, below 1")] = 0.5
    centered: bool = Field(False, description="true or false")
    eps: Positive = 1.0
    rho: Annotated[float, Field(ge=0, le=1, description="a number between 0 and 1")] = 1.0
    schedule: Schedule


class Logger(Section):
    project: str = Field("", description="a name")
    group: str | None = Field(None, description="a name that is no number, or null")
    tags: list[str] = Field([], description="a list of names, such as [a,b]")
    log_model: bool = Field(False, description="true or false")
    timeout: Positive = 1.0
    finish_timeout: Positive = 1.0


class Trainer(Section):
    max_epochs: Count | Literal[-1] = Field(description="a whole number, 1 or more, or -1 for no limit")
    max_steps: Count | Literal[-1] = Field(description="a whole number, 1 or more, or -1 for no limit")
    check_val_every_n_epoch: Count
    devices: Count = 1

    @model_validator(mode="after")
    def _ends(self) -> Self:
        if self.max_epochs == self.max_steps == -1:
            raise UserError("trainer.max_epochs=-1: expected a limit here or in trainer.max_steps, which is -1 too")
        return self


class Test(Section):
    K: Count
    images: int | None = Field(ge=2, description="a whole number, 2 or more, or null for all")


class Config(BaseModel, strict=True, extra="forbid"):
    """Every root key."""

    latent_dim: Count
    hidden_size: HiddenSize
    activation: Literal["tanh", "relu", "leaky_relu", "elu", "gelu", "silu", "softplus", "sigmoid", "identity"]
    batch_size: Count
    seed: Seed
    data_dir: str = Field(description="a folder")
    log_every_n_steps: Count
    gradient_clip_val: Positive | None = Field(description="a number above 0, or null for no clipping")
    patience: Count | None = Field(description="a whole number, 1 or more, or null")
    compile: Compile = False  # as in runs of older versions, which do not have it
    cuda_graph: bool = Field(False, description="true or false")
    matmul_precision: Literal["highest", "high"] = "highest"
    resume: str | None
    test: Test = Field(description="its keys, such as test.K=100")
    architecture: Architecture
    likelihood: Likelihood
    posterior: Posterior
    prior: Prior
    objective: Objective
    optimizer: Optimizer
    trainer: Trainer
    logger: Logger
    dataset: Dataset

    @model_validator(mode="after")
    def _codes_are_of_one_size(self) -> Self:
        for name, part in {
            "posterior": self.posterior,
            "prior": self.prior,
            "architecture.decoder": self.architecture.decoder,
            "likelihood": self.likelihood,
        }.items():
            given = getattr(part, "latent_dim", self.latent_dim)
            if given != self.latent_dim:
                raise UserError(f"{name}.latent_dim={given}: expected that of latent_dim, which is {self.latent_dim}")
        return self


def meant(given: str, allowed: Iterable[str]) -> str:
    """The part of a message that guesses what a misspelling stands for, or nothing."""
    close = get_close_matches(given, list(allowed), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def keys_of(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """What a model has, by the names that people type."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def checked(model: type[Model], given: dict[str, Any]) -> Model:
    """The values, each in its range; UserError for one that is not: the key, what was given, what is allowed."""
    try:
        return model.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        at: Any = model
        keys: list[str] = []
        value: Any = given
        for key in map(str, first["loc"]):
            field = keys_of(at).get(key)
            keys.append(key)
            value = value.get(key)
            if field is None or not hasattr(field.annotation, "model_fields"):
                break
            at = field.annotation
        name = ".".join(keys)
        if field is None:
            raise UserError(f"{name}: no such key{meant(name, keys_of(model))}") from None
        if first["type"] == "missing":
            raise UserError(f"{name}: missing; expected {field.description or 'its keys'}") from None
        expected = field.description or first.get("ctx", {}).get("expected") or first["msg"]
        guess = meant(str(value), getattr(field.annotation, "__args__", ())) if field.description is None else ""
        raise UserError(f"{name}={value}: expected {expected}{guess}") from None


def validate(cfg: DictConfig) -> None:
    """Raise UserError for a value out of its range."""
    checked(Config, cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True)))


def one_line(error: Exception) -> str:
    """The message of an error of our own as it is, of Hydra's without its line breaks."""
    return str(error) if isinstance(error, UserError) else " ".join(str(error).split())
