"""The config schema: keys and allowed values, and one-line errors for others. Nothing here imports torch."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, cast

from omegaconf import DictConfig, OmegaConf
from pydantic import BaseModel, Field, ValidationError, model_validator

from vae.config.datasets import Dataset
from vae.config.parts import (
    Architecture,
    Ladder,
    LadderDecoder,
    Likelihood,
    Noise,
    Objective,
    Optimizer,
    Posterior,
    Prior,
)
from vae.config.section import (
    Compile,
    Fraction,
    HiddenSize,
    PositiveFloat,
    PositiveInt,
    Section,
    Seed,
    Switch,
    fields_by_key,
    with_groups,
)
from vae.errors import UserError, did_you_mean

# In a wheel, conf/ is inside of the package.
CONF = next(parent / "conf" for parent in Path(__file__).parents[1:3] if (parent / "conf").is_dir())

Model = TypeVar("Model", bound=BaseModel)


class WandbLogger(Section):
    project: str | None = Field(None, min_length=1, description="a name, or null")
    group: str | None = Field(None, description="a name, or null")
    notes: str | None = Field(None, description="a text, or null")
    save_dir: str | None = Field(None, min_length=1, description="a folder, or null")
    tags: list[str] = Field([], description="a list of names, such as [a,b]")
    log_model: Switch = False
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
    accelerator: str = Field("cpu", description="the name of an accelerator, such as cpu or gpu")
    devices: PositiveInt = 1
    strategy: str | dict[str, Any] = Field("auto", description="the name of a strategy, such as ddp")
    precision: Literal[32, "32", "32-true", "16-mixed", "bf16-mixed"] = Field(
        "32-true", description="32-true, bf16-mixed or 16-mixed"
    )
    limit_train_batches: BatchLimit = 1.0
    limit_val_batches: BatchLimit = 1.0
    limit_test_batches: BatchLimit = 1.0
    overfit_batches: BatchLimit | Literal[0] = Field(0, description=f"{BATCH_LIMIT}; or 0 for none")
    min_epochs: int | None = Field(None, ge=0, description="a whole number, 0 or more, or null")
    min_steps: int | None = Field(None, ge=0, description="a whole number, 0 or more, or null")
    max_time: str | None = Field(
        None, pattern=r"^\d+:\d\d:\d\d:\d\d$", description="days:hours:minutes:seconds, such as 00:01:30:00, or null"
    )
    profiler: Literal["simple", "advanced", "pytorch"] | dict[str, Any] | None = Field(
        None, description="simple, advanced, pytorch or null"
    )
    deterministic: bool | Literal["warn"] | None = Field(None, description="true, false, warn or null")
    benchmark: bool | None = Field(None, description="true, false or null")
    detect_anomaly: Switch = False
    inference_mode: Switch = True
    sync_batchnorm: Switch = False
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
        if self.precision == "16-mixed" and self.accelerator == "cpu":  # Lightning would use bf16-mixed
            raise UserError("trainer.precision=16-mixed: expected bf16-mixed, or a GPU")
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


class ModelSummary(Section):
    max_depth: int = Field(3, ge=-1, description="a number of levels, 0 or more, or -1 for all")


class Callbacks(Section):
    model_summary: ModelSummary = Field(
        ModelSummary.model_validate({}), description="a group of keys, such as callbacks.model_summary.max_depth=2"
    )


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
    skip_gradient_norm: PositiveFloat | None = Field(None, description="a number above 0, or null to skip no steps")
    conditional: Switch = False
    ema: Fraction | None = Field(None, description="a number between 0 and 1, or null for no average")
    patience: PositiveInt | None = Field(description="a whole number, 1 or more, or null")
    compile: Compile = False  # the default of older versions, whose configs do not have this key
    cuda_graph: Switch = False
    matmul_precision: Literal["highest", "high"] = "highest"
    resume: str | None
    test: Test = Field(description="a group of keys, such as test.K=100")
    architecture: Architecture
    likelihood: Likelihood
    posterior: Posterior
    prior: Prior
    noise: Noise = Noise()
    objective: Objective
    optimizer: Optimizer
    trainer: Trainer
    logger: Logger
    callbacks: Callbacks = Field(Callbacks.model_validate({}), description="callbacks by name")
    dataset: Dataset

    @model_validator(mode="after")
    def _gradients_are_not_scaled(self) -> Self:
        for key in ("gradient_clip_val", "skip_gradient_norm"):
            if (value := getattr(self, key)) and self.trainer.precision == "16-mixed":
                raise UserError(
                    f"{key}={value}: expected null with trainer.precision=16-mixed, or trainer.precision=bf16-mixed"
                )
        return self

    @model_validator(mode="after")
    def _steps_of_a_graph_are_not_skipped(self) -> Self:
        if self.skip_gradient_norm and self.cuda_graph:
            raise UserError(f"skip_gradient_norm={self.skip_gradient_norm}: expected null, or cuda_graph=false")
        return self

    @model_validator(mode="after")
    def _ladder_is_whole(self) -> Self:
        with_ladder = isinstance(self.architecture.decoder, LadderDecoder)
        if with_ladder != isinstance(self.posterior, Ladder):
            raise UserError("posterior: expected posterior=ladder with architecture=ladder, and only with it")
        return self

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


def validate_model(model: type[Model], given: dict[str, Any]) -> Model:
    """Return a model with the given values.

    Raises UserError for the first invalid one: its message names the key, the value, and what is allowed.
    """
    model = with_groups(model, given)
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
