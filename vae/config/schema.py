"""The config schema: keys and allowed values, and one-line errors for others. Nothing here imports torch."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, cast

from omegaconf import DictConfig, OmegaConf
from pydantic import BaseModel, BeforeValidator, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from vae.errors import UserError, did_you_mean

# In a wheel, conf/ is inside of the package.
CONF = next(parent / "conf" for parent in Path(__file__).parents[1:3] if (parent / "conf").is_dir())

PositiveInt = Annotated[int, Field(ge=1, description="a whole number, 1 or more")]
Seed = Annotated[int, Field(ge=0, lt=2**32, description="a whole number, 0 or more, below 2^32")]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False, description="a number above 0")]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False, description="a number of 0 or more")]
HiddenSize = Annotated[
    list[PositiveInt],
    BeforeValidator(lambda size: size if isinstance(size, list) else [size]),
    Field(min_length=1, description="a whole number, 1 or more, or a list of them such as [400,200]"),
]
Fraction = Annotated[float, Field(gt=0, lt=1, description="a number between 0 and 1")]
SPLIT_SIZE = "a number of images, 1 or more, or a fraction between 0 and 1"
SplitSize = Annotated[PositiveInt | Fraction, Field(description=SPLIT_SIZE)]
Compile = Annotated[bool | Literal["auto"], Field(description="auto, true or false")]
ImageSide = Annotated[int, Field(ge=1, le=1024)]

Model = TypeVar("Model", bound=BaseModel)


class Section(BaseModel, strict=True, extra="allow"):
    """A config group. Keys that are not listed here are allowed; the class that receives them checks them."""


class Dataset(Section):
    batch_size: PositiveInt
    seed: Seed
    val_size: SplitSize | None = Field(description=SPLIT_SIZE)
    test_size: SplitSize | None = Field(None, description=SPLIT_SIZE)
    split_seed: Seed
    binarize: Literal["dynamic", "static", "threshold", "none"]
    split: Literal["random", "sequential"] = "random"
    generation: Annotated[int, Field(ge=1, le=8)] | None = Field(None, description="1 to 8, or null for all")
    shiny: bool = Field(False, description="true or false")
    flips: bool = Field(False, description="true or false")
    shift: int = Field(0, ge=0, description="a whole number, 0 or more")
    path: str = Field(".", min_length=1, description="a folder or a file")
    layout: Literal["ND", "NHW", "NHWC", "NCHW"] | None = Field(None, description="ND, NHW, NHWC, NCHW or null")
    range: Annotated[list[float], Field(min_length=2, max_length=2)] | None = Field(
        None, description="[low,high] or null"
    )
    max_memory: NonNegativeFloat = Field(4.0, description="a number of GB, 0 or more")
    key: str = Field("x", description="a name")
    labels: str | None = Field(None, description="a name, a .npy file or null")
    colour: Literal["rgb", "grey"] = "rgb"
    size: ImageSide | Annotated[list[ImageSide], Field(min_length=2, max_length=2)] = Field(
        1, description="a whole number, 1 to 1024, or two of them, [height,width]"
    )


class Schedule(Section):
    warmup: Fraction = 0.5
    cycles: PositiveInt = 1
    stages: Annotated[int, Field(ge=2, le=16, description="a whole number, 2 to 16")] = 2


class Objective(Section):
    K: PositiveInt
    beta: NonNegativeFloat = 1.0
    gamma: NonNegativeFloat = 1.0
    capacity: NonNegativeFloat = 1.0
    free_bits: NonNegativeFloat = 1.0
    schedule: Schedule = Schedule()


class Posterior(Section):
    latent_dim: PositiveInt
    steps: PositiveInt = 1
    hidden_size: PositiveInt = 1
    context: PositiveInt = 1


class Prior(Section):
    top_dim: PositiveInt = 1
    components: PositiveInt = 1
    pseudo_inputs: PositiveInt = 1
    mean: Annotated[float, Field(ge=0, le=1, description="a number from 0 to 1")] = 0.5
    steps: PositiveInt = 1
    hidden_size: HiddenSize = [1]


class Likelihood(Section):
    sigma: Annotated[float, Field(ge=0.003, description="a number of 0.003 or more")] = 1.0
    learned: bool = Field(True, description="true or false")
    scale: Literal["pixel", "shared"] = "pixel"
    levels: Annotated[int, Field(ge=2, le=256, description="a whole number, 2 to 256")] = 256
    K: PositiveInt = 1
    max_scale: PositiveFloat = 1.0
    background: Annotated[float, Field(ge=0, le=1, description="a number from 0 to 1")] = 1.0
    palette: PositiveInt = 1
    h_channels: PositiveInt = 1
    radius: PositiveInt = 1
    width: PositiveInt = 1
    dilations: list[PositiveInt] = Field([], description="a list of whole numbers, 1 or more, such as [1,2]")
    context_dropout: Annotated[float, Field(ge=0, lt=1, description="a number of 0 or more, below 1")] = 0.0
    temperature: NonNegativeFloat = 1.0


class Convolutions(Section):
    channels: Annotated[list[PositiveInt], Field(min_length=1)] = Field(
        [1], description="a list of whole numbers, 1 or more"
    )


class Architecture(Section):
    encoder: Convolutions
    decoder: Convolutions


class Optimizer(Section):
    lr: PositiveFloat
    weight_decay: NonNegativeFloat = 0.0
    alpha: Annotated[float, Field(ge=0, lt=1, description="a number of 0 or more, below 1")] = 0.5
    centered: bool = Field(False, description="true or false")
    eps: PositiveFloat = 1.0
    rho: Annotated[float, Field(ge=0, le=1, description="a number between 0 and 1")] = 1.0
    schedule: Schedule


class WandbLogger(Section):
    project: str | None = Field(None, min_length=1, description="a name, or null")
    group: str | None = Field(None, description="a name, or null")
    notes: str | None = Field(None, description="a text, or null")
    save_dir: str | None = Field(None, min_length=1, description="a folder, or null")
    tags: list[str] = Field([], description="a list of names, such as [a,b]")
    log_model: bool = Field(False, description="true or false")
    timeout: PositiveFloat = 1.0
    finish_timeout: PositiveFloat = 1.0


BATCH_LIMIT = "a number of batches, 1 or more, or a fraction of them, such as 0.1 or 1.0"
BatchLimit = Annotated[PositiveInt | Annotated[float, Field(gt=0, le=1)], Field(description=BATCH_LIMIT)]
# Arguments of Lightning's Trainer that are not supported, and what to use instead.
REFUSED_TRAINER_KEYS = {
    "accumulate_grad_batches": "a larger batch_size= has the same gradient",
    "barebones": "a run needs its metrics and checkpoints",
    "default_root_dir": "hydra.run.dir= is the folder of the run",
    "enable_autolog_hparams": "the config is sent to every logger",
    "enable_checkpointing": "the best checkpoint is tested",
    "enable_model_summary": "callbacks=model_summary prints the layers",
    "enable_progress_bar": "the bar is shown only in a terminal",
    "fast_dev_run": "trainer.max_epochs=1 trainer.limit_train_batches=1 is a short run",
    "gradient_clip_algorithm": "gradient_clip_val= limits the norm of the gradient",
    "gradient_clip_val": "expected gradient_clip_val= without trainer",
    "limit_predict_batches": "no command predicts with the Trainer",
    "log_every_n_steps": "expected log_every_n_steps= without trainer",
    "logger": "expected logger= without trainer",
    "model_registry": "logger.wandb.log_model=true uploads the best checkpoint",
    "num_nodes": "a run uses one machine",
    "num_sanity_val_steps": "a run starts without a validation",
    "plugins": "the processes of a run are on one machine",
    "reload_dataloaders_every_n_epochs": "the images are read once",
    "use_distributed_sampler": "each process takes its share of every batch",
    "val_check_interval": "trainer.check_val_every_n_epoch= sets when to validate",
}


class Trainer(Section):
    max_epochs: PositiveInt | Literal[-1] = Field(description="a whole number, 1 or more, or -1 for no limit")
    max_steps: PositiveInt | Literal[-1] = Field(description="a whole number, 1 or more, or -1 for no limit")
    check_val_every_n_epoch: PositiveInt
    devices: PositiveInt = 1
    precision: Literal[32, "32", "32-true", "16-mixed", "bf16-mixed"] = Field(
        "32-true", description="32-true, bf16-mixed or 16-mixed"
    )
    limit_train_batches: BatchLimit = 1.0
    limit_val_batches: BatchLimit = 1.0
    limit_test_batches: BatchLimit = 1.0
    overfit_batches: BatchLimit | Literal[0] = Field(0, description=f"{BATCH_LIMIT}; or 0 for none")
    callbacks: list[dict[str, Any]] = Field([], description="a list of callbacks, such as [{_target_: CLASS}]")

    @model_validator(mode="after")
    def _training_is_limited(self) -> Self:
        if self.max_epochs == self.max_steps == -1:
            raise UserError("trainer.max_epochs=-1: expected a limit here or in trainer.max_steps, but both are -1")
        return self

    @model_validator(mode="after")
    def _keys_have_an_effect(self) -> Self:
        for key, value in (self.model_extra or {}).items():
            if key in REFUSED_TRAINER_KEYS:
                raise UserError(f"trainer.{key}={value}: not supported; {REFUSED_TRAINER_KEYS[key]}")
        return self


# Arguments of Lightning's Trainer that conf/trainer/ does not have; they can be given without a plus sign.
TRAINER_ARGUMENTS = {
    *REFUSED_TRAINER_KEYS,
    *("precision", "limit_train_batches", "limit_val_batches", "limit_test_batches", "overfit_batches", "callbacks"),
    *("benchmark", "detect_anomaly", "deterministic", "inference_mode", "max_time", "min_epochs", "min_steps"),
    *("profiler", "strategy", "sync_batchnorm"),
}


class Logger(Section):
    wandb: WandbLogger = WandbLogger.model_validate({})


class Test(Section):
    K: PositiveInt
    images: int | None = Field(ge=2, description="a whole number, 2 or more, or null for all")


class Config(BaseModel, strict=True, extra="forbid"):
    """The whole config: all keys at its root."""

    latent_dim: PositiveInt
    hidden_size: HiddenSize
    activation: Literal["tanh", "relu", "leaky_relu", "elu", "gelu", "silu", "softplus", "sigmoid", "identity"]
    batch_size: PositiveInt
    seed: Seed
    data_dir: str = Field(min_length=1, description="a folder")
    log_every_n_steps: PositiveInt
    gradient_clip_val: PositiveFloat | None = Field(description="a number above 0, or null for no clipping")
    patience: PositiveInt | None = Field(description="a whole number, 1 or more, or null")
    compile: Compile = False  # the default of older versions, whose configs do not have this key
    cuda_graph: bool = Field(False, description="true or false")
    matmul_precision: Literal["highest", "high"] = "highest"
    resume: str | None
    test: Test = Field(description="a group of keys, such as test.K=100")
    architecture: Architecture
    likelihood: Likelihood
    posterior: Posterior
    prior: Prior
    objective: Objective
    optimizer: Optimizer
    trainer: Trainer
    logger: Logger
    callbacks: dict[str, Any] = Field({}, description="callbacks by name")
    dataset: Dataset

    @model_validator(mode="after")
    def _latent_dims_agree(self) -> Self:
        for name, part in {
            "posterior": self.posterior,
            "prior": self.prior,
            "architecture.decoder": self.architecture.decoder,
            "likelihood": self.likelihood,
        }.items():
            given = getattr(part, "latent_dim", self.latent_dim)
            if given != self.latent_dim:
                raise UserError(
                    f"{name}.latent_dim={given}: expected the value of latent_dim, which is {self.latent_dim}"
                )
        return self


def fields_by_key(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """Return the fields of a model by the key that users type."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def validate_model(model: type[Model], given: dict[str, Any]) -> Model:
    """Return a model with the given values.

    Raises UserError for the first invalid one: its message names the key, the value, and what is allowed.
    """
    try:
        return model.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        at: Any = model
        keys: list[str] = []
        value: Any = given
        for key in map(str, first["loc"]):
            field = fields_by_key(at).get(key)
            keys.append(key)
            value = value.get(key)
            if field is None or not hasattr(field.annotation, "model_fields"):
                break
            at = field.annotation
        name = ".".join(keys)
        if field is None:
            raise UserError(f"{name}: no such key{did_you_mean(name, fields_by_key(model))}") from None
        if first["type"] == "missing":
            raise UserError(f"{name}: missing; expected {field.description or 'a group of keys'}") from None
        expected = field.description or first.get("ctx", {}).get("expected") or first["msg"]
        guess = did_you_mean(str(value), getattr(field.annotation, "__args__", ())) if field.description is None else ""
        raise UserError(f"{name}={value}: expected {expected}{guess}") from None


def validate(cfg: DictConfig) -> None:
    """Raise UserError if a key is unknown or missing, or if a value is not allowed."""
    validate_model(Config, cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True)))
