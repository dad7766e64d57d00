"""Steps replayed by a CUDA graph against plain steps. Without a GPU, a fake graph calls the captured function."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from config_choices import CHOICES
from conftest import BARS
from hydra import compose, initialize_config_dir
from pytorch_lightning import Trainer, seed_everything
from run_outputs import load_checkpoint, load_weights, read_metrics
from torch.testing import assert_close

from vae.acceleration.cuda_graph import CUDAGraphStepper
from vae.config.schema import CONF
from vae.training.build import build
from vae.training.callbacks.acceleration import CUDAGraphSteps
from vae.training.callbacks.progress import Progress
from vae.training.experiment import load_dataset
from vae.training.lightning_module import VAEModule

pytestmark = pytest.mark.slow

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="a CUDA graph needs an NVIDIA GPU")
SHORT_LAST = "gradient_clip_val=2.0 dataset.val_size=67"
EPOCHS = ["trainer.max_epochs=3", "dataset.val_size=67", "log_every_n_steps=7"]  # 11 batches of 20 images and one of 13


@pytest.mark.parametrize(
    "line",
    [
        "",
        "objective=beta objective/schedule=cyclical gradient_clip_val=2.0",
        "optimizer/schedule=constant",
        "trainer.max_steps=29",
        "ema=0.9",
        "conditional=true",
        "objective=m2 objective.labelled=16",
    ],
)
def test_replayed_steps_give_the_same_training(line, cli, runs, monkeypatch, request):
    """The learning rate and objective weight of each step, the batches, the metrics, and the number of steps."""
    batches = []
    steps = CUDAGraphStepper.steps
    monkeypatch.setattr(CUDAGraphStepper, "steps", lambda self, xs, i: batches.append(len(xs)) or steps(self, xs, i))
    assert cli(*EPOCHS, *line.split())[0] == 0
    assert not batches
    assert cli(*EPOCHS, *line.split(), *request.getfixturevalue("fake_graph"))[0] == 0
    # full batches only; a chunk ends where metrics are logged
    assert (
        batches == [7, 3, 1, 2, 7, 1, 1, 4, 6, 1]
        if line in ("", "ema=0.9")
        else sum(batches) == (27 if "29" in line else 33)
    )
    plain, replayed = runs()
    for name, value in load_weights(plain).items():
        assert_close(load_weights(replayed)[name], value, rtol=1e-4, atol=1e-5)
    assert len(read_metrics(replayed)) == len(read_metrics(plain))
    for one, other in zip(read_metrics(plain), read_metrics(replayed), strict=True):
        for name in one.keys() - {"seconds", "images_per_second"}:
            assert other[name] == pytest.approx(one[name], rel=1e-4), name
    checkpoints = [load_checkpoint(plain), load_checkpoint(replayed)]
    assert [checkpoint["global_step"] for checkpoint in checkpoints] == ([29, 29] if "29" in line else [36, 36])
    plain_lr, replayed_lr = (checkpoint["optimizer_states"][0]["param_groups"][0]["lr"] for checkpoint in checkpoints)
    assert type(replayed_lr) is float
    assert replayed_lr == plain_lr


@pytest.fixture
def fake_graph(monkeypatch):
    """Keys for a run on a CPU in which the captured function is called instead of a graph."""
    monkeypatch.setattr("vae.acceleration.cuda_graph.capture_graph", lambda function: function)
    monkeypatch.setattr("vae.training.callbacks.acceleration.CompileAtStart", CUDAGraphSteps)
    return ["compile=true"]


@pytest.fixture
def real_graph(monkeypatch):
    """Keys for a run on a GPU."""
    monkeypatch.setattr("datamodules.loaders.BATCHES_PER_CHUNK_ON_GPU", 4)
    return ["trainer=gpu", "matmul_precision=highest", "log_every_n_steps=7"]


@pytest.mark.parametrize("keys", ["fake_graph", pytest.param("real_graph", marks=on_gpu)])
def test_a_resumed_run_gives_the_same_weights(keys, cli, runs, monkeypatch, request):
    """Ctrl-C stops it in the second of three epochs of 12 steps, at a step whose metrics are not logged."""
    keys = request.getfixturevalue(keys)
    assert cli(*EPOCHS, *keys)[0] == 0
    (uninterrupted,) = runs()
    steps = CUDAGraphStepper.steps

    def stop(stepper, batches, first):
        if first <= 15 < first + len(batches):
            os.kill(os.getpid(), signal.SIGINT)
        return steps(stepper, batches, first)

    with monkeypatch.context() as patch:
        patch.setattr(CUDAGraphStepper, "steps", stop)
        assert cli(*EPOCHS, *keys)[0] == 130
    (stopped,) = {path.parent for path in Path("outputs").rglob("checkpoints")} - {Path(os.path.relpath(uninterrupted))}
    step = load_checkpoint(stopped)["global_step"]
    assert 12 < step < 24
    assert step % 7
    assert cli(f"resume={stopped}/", defaults=())[0] == 0
    for name, value in load_weights(uninterrupted).items():
        assert_close(load_weights(stopped)[name], value, rtol=1e-4, atol=1e-5)
    for one, other in zip(read_metrics(uninterrupted), read_metrics(stopped), strict=True):
        assert other["step"] == one["step"]
        assert other.get("train/elbo", 0) == pytest.approx(one.get("train/elbo", 0), rel=1e-4)


def test_an_optimizer_without_support_for_cuda_graphs_trains_without_one(cli, runs, fake_graph, monkeypatch):
    monkeypatch.setattr("vae.acceleration.cuda_graph.capture_graph", None)
    code, out, _ = cli("optimizer=adagrad", *fake_graph)
    assert (code, len(runs())) == (0, 1)
    assert "cuda_graph: Adagrad does not support CUDA graphs; training without one" in out


def test_a_missing_gpu_is_a_one_line_error(cli):
    code, _, err = cli("cuda_graph=true")
    assert (code, err.count("\n")) == (2, 1)
    assert "cuda_graph=true: expected one NVIDIA GPU, as with trainer=gpu" in err
    if not torch.cuda.is_available():
        code, _, err = cli("trainer=gpu")
        assert (code, err.count("\n")) == (2, 1)
        assert "trainer.accelerator=gpu: no GPU was found; expected cpu" in err


def test_matmul_precision_applies_to_training_only(cli, monkeypatch):
    order = []
    monkeypatch.setattr(torch, "set_float32_matmul_precision", order.append)
    for name in ("on_train_start", "on_train_end", "on_test_start"):
        monkeypatch.setattr(Progress, name, lambda *_, name=name: order.append(name))
    monkeypatch.setattr(Progress, "on_train_batch_end", lambda *_: None)
    monkeypatch.setattr(Progress, "on_test_batch_end", lambda *_: None)
    assert cli("matmul_precision=high")[0] == 0
    assert order == ["high", "on_train_start", "on_train_end", "highest", "on_test_start"]


def fit(line, callbacks):
    """Train for two epochs of 12 steps on a GPU; return the weights, and how often Python computed the gradients."""
    calls = []

    class Spy(VAEModule):
        def compute_gradients(self, x, weight):
            calls.append(len(x))
            return super().compute_gradients(x, weight)

    with initialize_config_dir(str(CONF), version_base=None):
        cfg = compose("config", [*BARS, "trainer.max_epochs=2", *line.split()])
    seed_everything(0, verbose=False)
    data = load_dataset(cfg, Path())
    module = build(cfg, data.shape)
    module.__class__ = Spy
    quiet = {name: False for name in ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")}
    trainer = Trainer(accelerator="gpu", devices=1, max_epochs=2, callbacks=callbacks, num_sanity_val_steps=0, **quiet)
    trainer.fit(module, datamodule=data)
    assert trainer.global_step == 24
    return [parameter.detach().cpu() for parameter in module.parameters()], len(calls)


@on_gpu
@pytest.mark.parametrize("line", [*CHOICES, *(f"optimizer={name}" for name in ("adadelta", "rmsprop")), SHORT_LAST])
def test_on_a_gpu_every_choice_can_be_replayed(line, monkeypatch):
    monkeypatch.setattr("datamodules.loaders.BATCHES_PER_CHUNK_ON_GPU", 4)
    plain, calls = fit(line, [])
    assert calls == 24
    replayed, calls = fit(line, [CUDAGraphSteps()])
    assert calls == 4 + 1 + (2 if line == SHORT_LAST else 0)  # the first call, the capture, and smaller batches
    for one, other in zip(plain, replayed, strict=True):
        assert_close(other, one, rtol=1e-3, atol=1e-4)


@on_gpu
@pytest.mark.parametrize("line", ["", "prior=flow objective=iwae objective.K=3 posterior=iaf", "optimizer=rmsprop"])
def test_on_a_gpu_a_compiled_step_can_be_replayed(line, cli, runs, monkeypatch):
    compute_gradients, calls = VAEModule.compute_gradients, []
    monkeypatch.setattr(VAEModule, "compute_gradients", lambda *args: calls.append(1) or compute_gradients(*args))
    for value in ("false", "true"):
        code, _, err = cli("trainer=gpu", "log_every_n_steps=4", f"compile={value}", *line.split())
        assert code == 0, err
    assert len(calls) == 2 * (4 + 1)
    plain, compiled = (json.loads((run / "summary.json").read_text()) for run in runs())
    assert compiled["test/elbo"] == pytest.approx(plain["test/elbo"], abs=0.05)


@on_gpu
def test_on_a_gpu_a_step_that_cannot_be_captured_is_a_one_line_error(cli, monkeypatch):
    monkeypatch.setattr("datamodules.loaders.BATCHES_PER_CHUNK_ON_GPU", 4)
    forward = VAEModule.forward
    monkeypatch.setattr(VAEModule, "forward", lambda self, x, weight: x.sum().item() and forward(self, x, weight))
    code, _, err = cli("trainer=gpu")
    assert (code, err.splitlines()[-1].count("cuda_graph=true: this step cannot be captured")) == (2, 1)
    assert "captur" in err
    assert "Traceback" not in err
