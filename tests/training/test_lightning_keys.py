"""Arguments of Lightning's Trainer, callbacks from the config, and VAEModule with other data loaders."""

import inspect

import pytest
import torch
from conftest import compose_config
from omegaconf import OmegaConf
from pytorch_lightning import Callback, Trainer
from run_outputs import load_checkpoint, load_weights, read_metrics, same_weights
from torch.utils.data import DataLoader, TensorDataset

from vae.config.overrides import read_arguments
from vae.config.schema import CONF, REFUSED_TRAINER_KEYS, TRAINER_ARGUMENTS, validate
from vae.config.schema import Trainer as TrainerKeys
from vae.errors import UserError
from vae.training.build import build
from vae.training.part_checks import check_keys

# BARS has 240 training images in batches of 20: 12 steps per epoch.
STEPS = {
    "trainer.limit_train_batches=2": 4,
    "trainer.limit_train_batches=0.5": 12,
    "trainer.limit_train_batches=99": 24,
    "trainer.overfit_batches=1": 2,
    "trainer.max_steps=5": 5,
    "trainer.min_epochs=2": 24,
    "+trainer.limit_train_batches=3": 6,
    "trainer.limit_train_batches=1.0": 24,
}
# Lightning itself would use any value of these keys, or end with a traceback.
TYPED_KEYS = [
    *("benchmark", "detect_anomaly", "deterministic", "inference_mode", "max_time", "min_epochs", "min_steps"),
    *("profiler", "sync_batchnorm"),
]


class Counter(Callback):
    """Counts what Lightning calls."""

    calls: list[str] = []  # noqa: RUF012

    def __init__(self, name):
        self.name = name

    def on_train_start(self, *_):
        self.calls.append(self.name)


@pytest.mark.slow
@pytest.mark.parametrize("argument", STEPS)
def test_a_key_that_limits_training_counts_optimizer_steps(argument, cli, runs):
    assert cli(argument)[0] == 0
    (run,) = runs()
    assert load_checkpoint(run)["global_step"] == STEPS[argument]
    rows = [row for row in read_metrics(run) if "train/elbo" in row]
    assert rows[-1]["step"] == STEPS[argument]
    assert rows[-1]["images_seen"] == 20 * STEPS[argument]


@pytest.mark.slow
def test_overfitting_takes_the_same_batches_in_each_epoch(cli, monkeypatch):
    from datamodules.loaders import EpochLoader

    seen = []
    original = EpochLoader.shuffled_chunks

    def recorded(*args):
        for batches in original(*args):
            seen.append(batches.pixels)
            yield batches

    monkeypatch.setattr(EpochLoader, "shuffled_chunks", recorded)
    for argument, same in (("trainer.overfit_batches=1", True), ("trainer.limit_train_batches=1", False)):
        seen.clear()
        assert cli(argument)[0] == 0
        first, second = seen
        assert len(first) == 20
        assert torch.equal(first, second) is same


@pytest.mark.slow
def test_limits_of_validation_and_test(cli, monkeypatch):
    monkeypatch.setattr("datamodules.base.EVAL_BATCH", 25)  # 60 images for validation, 120 for the test
    counts = {}
    for name in ("validation_step", "test_step"):
        original = getattr(build(compose_config("hidden_size=8"), (1, 8, 8)).__class__, name)

        def counted(self, *args, _name=name, _original=original):
            counts[_name] = counts.get(_name, 0) + 1
            return _original(self, *args)

        monkeypatch.setattr(f"vae.training.lightning_module.VAEModule.{name}", counted)
    code, out, _ = cli("trainer.limit_val_batches=1", "trainer.limit_test_batches=2", "trainer.max_epochs=1")
    assert (code, "over 50 images" in out) == (0, True)
    assert counts == {"validation_step": 1, "test_step": 2}


@pytest.mark.parametrize("key", REFUSED_TRAINER_KEYS)
def test_a_key_that_is_not_supported_is_refused(key):
    with pytest.raises(UserError) as error:
        validate(compose_config(*read_arguments([f"trainer.{key}=2"])))
    assert str(error.value) == f"trainer.{key}=2: not supported; {REFUSED_TRAINER_KEYS[key]}"


@pytest.mark.parametrize("argument", ["trainer.logger=2", "+trainer.logger=2"])
def test_a_key_that_is_not_supported_is_refused_in_one_line(argument, cli, tmp_path):
    message = f"trainer.logger=2: not supported; {REFUSED_TRAINER_KEYS['logger']}\n"
    assert cli(argument) == (2, "", message)
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("trainer.precision=64-true", "trainer.precision=64-true: expected 32-true, bf16-mixed or 16-mixed"),
        ("trainer.precision=16-mixed", "trainer.precision=16-mixed: expected bf16-mixed, or a GPU"),
        (
            "trainer=gpu trainer.precision=16-mixed gradient_clip_val=10",
            "gradient_clip_val=10.0: expected null with trainer.precision=16-mixed, or trainer.precision=bf16-mixed",
        ),
        (
            "trainer=gpu cuda_graph=false trainer.precision=16-mixed skip_gradient_norm=10",
            "skip_gradient_norm=10.0: expected null with trainer.precision=16-mixed, or trainer.precision=bf16-mixed",
        ),
        ("trainer.limit_train_batches=0", "trainer.limit_train_batches=0: expected a number of batches"),
        ("trainer.overfit_batches=1.5", "trainer.overfit_batches=1.5: expected "),
        ("trainer.callbacks=x", "trainer.callbacks=x: expected a list of callbacks"),
        *((f"trainer.{key}=x", f"trainer.{key}=x: expected ") for key in TYPED_KEYS),
        ("trainer.max_time=0:1:30:0", "trainer.max_time=0:1:30:0: expected days:hours:minutes:seconds, such as "),
        *((f"trainer.{key}=3", f"trainer.{key}=3: expected ") for key in TYPED_KEYS if not key.startswith("min_")),
        ("trainer.strategy=3", "trainer.strategy=3: expected the name of a strategy, such as ddp"),
        (
            "callbacks=model_summary callbacks.model_summary.max_depth=x",
            "callbacks.model_summary.max_depth=x: expected a ",
        ),
        ("+optimizer.betas=3", "optimizer.betas=3: expected two numbers of 0 or more, below 1, such as [0.9,0.999]"),
        ("+optimizer.betas=[0.9]", "optimizer.betas=[0.9]: expected two numbers"),
        ("+optimizer.betas=[2,0.9]", "optimizer.betas=[2, 0.9]: expected two numbers"),
        *((f"++optimizer.{key}=3", f"optimizer.{key}=3: expected true") for key in ("amsgrad", "fused", "capturable")),
        ("optimizer=sgd +optimizer.nesterov=3", "optimizer.nesterov=3: expected true or false"),
        ("optimizer=sgd +optimizer.nesterov=true optimizer.momentum=0", "optimizer: Nesterov momentum requires"),
        ("optimizer=sgd optimizer.momentum=-1", "optimizer.momentum=-1: expected a number of 0 or more"),
        ("+optimizer.foreach=true", "optimizer: `fused` and `foreach` cannot be `True` together."),
        ("+optimizer.differentiable=true", "optimizer: `fused` does not support `differentiable`"),
        ("optimizer=adagrad +optimizer.lr_decay=-1", "optimizer.lr_decay=-1: expected a number of 0 or more"),
        ("logger=tensorboard +logger.tensorboard.folder=x", "logger.tensorboard: Error in call to target"),
        ("+trainer.no_such_key=1", "trainer: Error in call to target 'pytorch_lightning.trainer.trainer.Trainer'"),
        ("trainer.limit_trian_batches=1", "trainer.limit_trian_batches: no such key"),
    ],
)
def test_a_wrong_value_is_refused_in_one_line(argument, message, cli):
    code, out, err = cli(*argument.split())
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(message)


def test_each_argument_of_the_trainer_has_a_type_or_is_refused():
    arguments = set(inspect.signature(Trainer).parameters)
    assert arguments == set(TRAINER_ARGUMENTS) | set(OmegaConf.load(CONF / "trainer" / "default.yaml")) - {
        "_target_"
    } | {"devices"}
    assert arguments == set(REFUSED_TRAINER_KEYS) | set(TrainerKeys.model_fields)


def test_arguments_of_the_trainer_need_no_plus_sign():
    assert read_arguments(["trainer.precision=bf16-mixed"]) == ["++trainer.precision=bf16-mixed"]
    assert read_arguments(["trainer.max_epochs=3"]) == ["trainer.max_epochs=3"]


def test_optimizers_take_the_keys_of_their_class():
    typed = ["optimizer=rmsprop", "+optimizer.capturable=true", "trainer.min_epochs=0", "trainer.max_time=00:01:30:00"]
    given = compose_config(*read_arguments(typed))
    validate(given)
    check_keys(build(given, (1, 8, 8)))
    validate(compose_config("optimizer=sgd", "~optimizer.momentum"))
    own = ["optimizer._target_=mine.AdEMAMix", "+optimizer.betas=[0.9,0.99,0.9999]", "optimizer.fused=often"]
    validate(compose_config(*own))


@pytest.mark.slow
def test_callbacks_of_the_config_are_called(cli, tmp_path):
    Counter.calls.clear()
    (tmp_path / "mine" / "callbacks").mkdir(parents=True)
    (tmp_path / "mine" / "callbacks" / "counter.yaml").write_text(
        "counter:\n  _target_: test_lightning_keys.Counter\n  name: from a group\n"
    )
    listed = "[{_target_: test_lightning_keys.Counter, name: from a list}]"
    assert cli("--config-dir=mine", "callbacks=counter", f"+trainer.callbacks={listed}")[0] == 0
    assert Counter.calls == ["from a list", "from a group"]


@pytest.mark.slow
def test_a_summary_of_the_model_is_logged(cli):
    code, out, _ = cli("callbacks=model_summary", "trainer.max_epochs=1")
    assert code == 0
    assert "vae.encoder" in out


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_an_optimizer_improves_the_model(name, cli, runs):
    assert cli(f"optimizer={name}", "trainer.max_epochs=4")[0] == 0
    elbos = [row["val/elbo"] for row in read_metrics(runs()[0]) if "val/elbo" in row]
    assert elbos[-1] > elbos[0] + 1


@pytest.mark.slow
def test_mixed_precision_differs_from_full_precision_by_rounding(cli, runs):
    for precision in ("32-true", "bf16-mixed"):
        assert cli(f"trainer.precision={precision}", "gradient_clip_val=1000", "trainer.max_epochs=1")[0] == 0
    full, mixed = map(load_weights, runs())
    assert not same_weights(full, mixed)
    for name, value in full.items():
        torch.testing.assert_close(mixed[name], value, atol=0.05, rtol=0.05)


@pytest.fixture
def module():
    torch.manual_seed(0)
    return build(compose_config("latent_dim=2", "hidden_size=8", "test.K=2"), (1, 4, 4))


def make_trainer(**options):
    quiet = {name: False for name in ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")}
    return Trainer(accelerator="cpu", max_epochs=2, **quiet, **options)


@pytest.mark.filterwarnings("ignore")
def test_validation_and_test_keep_32_bits(module):
    x = torch.randint(2, (50, 1, 4, 4), generator=torch.Generator().manual_seed(0)).float()
    results = []
    for precision in ("32-true", "bf16-mixed"):
        trainer = make_trainer(precision=precision)
        trainer.test(module, DataLoader(x, 10), verbose=False)
        torch.manual_seed(0)
        trainer.validate(module, DataLoader(x, 10), verbose=False)
        results.append(module.test_metrics.compute() | module.val_means.compute("val"))
    assert results[0] == results[1]


@pytest.mark.filterwarnings("ignore")
def test_a_module_trains_with_another_data_loader(module):
    x = torch.randint(2, (50, 1, 4, 4), generator=torch.Generator().manual_seed(0))
    pairs = DataLoader(TensorDataset(x.float(), torch.zeros(50)), 10)
    trainer = make_trainer()
    trainer.fit(module, pairs, DataLoader(x.bool(), 10))
    assert trainer.global_step == 10
    assert module.training_metrics.images_seen == 100
    trainer.test(module, DataLoader(x.bool(), 10), verbose=False)
    metrics = module.latest_metrics
    assert metrics["test/log_px"] > metrics["test/elbo"] - 1
    assert "test/squared_error" in metrics
    assert "test/squared_error_of_mean_image" not in metrics
    limited = make_trainer(limit_train_batches=2)
    limited.fit(module, pairs)
    assert limited.global_step == 4


@pytest.mark.filterwarnings("ignore")
def test_pixels_of_another_data_loader_are_checked(module):
    with pytest.raises(
        UserError, match=r"pixels are float32 from 0 to 1.49\d*; expected uint8, bool, or float from 0 to 1$"
    ):
        make_trainer().fit(module, DataLoader(torch.linspace(0, 3, 160).view(10, 1, 4, 4), 5))
