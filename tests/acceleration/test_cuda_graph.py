"""Steps played back against those taken one by one. Where there is no GPU, what a graph records stands in for it."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from conftest import BARS
from hydra import compose, initialize_config_dir
from pytorch_lightning import Trainer, seed_everything
from test_compiled import CHOICES
from test_train import rows, weights
from torch.testing import assert_close

from vae.acceleration.cuda_graph import CUDAGraphStepper
from vae.config.schema import CONF
from vae.training.callbacks.acceleration import CUDAGraphSteps
from vae.training.callbacks.progress import Progress
from vae.training.experiment import build, load
from vae.training.lightning_module import VAEModule

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="a CUDA graph needs a GPU of NVIDIA's")
SHORT_LAST = "gradient_clip_val=2.0 dataset.val_size=67"
EPOCHS = ["trainer.max_epochs=3", "dataset.val_size=67", "log_every_n_steps=7"]  # of 11 steps on 20 images, one on 13


@pytest.mark.parametrize(
    "line",
    [
        "",
        "objective=beta objective/schedule=cyclical gradient_clip_val=2.0",
        "optimizer/schedule=constant",
        "trainer.max_steps=29",
    ],
)
def test_played_back_or_one_by_one_it_is_the_same_training(line, cli, runs, monkeypatch, request):
    """The learning rate and the weight of each step, the batches, the records, the number of steps."""
    played = []
    steps = CUDAGraphStepper.steps
    monkeypatch.setattr(CUDAGraphStepper, "steps", lambda self, xs, i: played.append(len(xs)) or steps(self, xs, i))
    assert cli(*EPOCHS, *line.split())[0] == 0
    assert not played
    assert cli(*EPOCHS, *line.split(), *request.getfixturevalue("stood_in_for"))[0] == 0
    # whole batches; a record cuts what is handed out
    assert played == [7, 3, 1, 2, 7, 1, 1, 4, 6, 1] if not line else sum(played) == (27 if "29" in line else 33)
    alone, together = runs()
    for name, value in weights(alone).items():
        assert_close(weights(together)[name], value, rtol=1e-4, atol=1e-5)
    assert len(rows(together)) == len(rows(alone))
    for one, other in zip(rows(alone), rows(together), strict=True):
        for name in one.keys() - {"seconds", "images_per_second"}:
            assert other[name] == pytest.approx(one[name], rel=1e-4), name
    checkpoints = [torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in runs()]
    assert [checkpoint["global_step"] for checkpoint in checkpoints] == ([29, 29] if "29" in line else [36, 36])
    last, played_last = (checkpoint["optimizer_states"][0]["param_groups"][0]["lr"] for checkpoint in checkpoints)
    assert type(played_last) is float
    assert played_last == last


@pytest.fixture
def stood_in_for(monkeypatch):
    """The keys with which what is recorded is done again, on a CPU, in place of a graph that is played back."""
    monkeypatch.setattr("vae.acceleration.cuda_graph.capture_graph", lambda work: work)
    monkeypatch.setattr("vae.training.experiment.CompileAtStart", CUDAGraphSteps)
    return ["compile=true"]


@pytest.fixture
def on_a_gpu(monkeypatch):
    monkeypatch.setattr("datamodules.base.BATCHES_PER_CHUNK_ON_GPU", 4)
    return ["trainer=gpu", "matmul_precision=highest", "log_every_n_steps=7"]


@pytest.mark.parametrize("keys", ["stood_in_for", pytest.param("on_a_gpu", marks=on_gpu)])
def test_a_training_stopped_and_resumed_ends_in_the_same_weights(keys, cli, runs, monkeypatch, request):
    """By Ctrl-C within the second of three epochs of 12 steps, and between two records."""
    keys = request.getfixturevalue(keys)
    assert cli(*EPOCHS, *keys)[0] == 0
    (whole,) = runs()
    steps = CUDAGraphStepper.steps

    def then_stop(captured, batches, first):
        if first <= 15 < first + len(batches):
            os.kill(os.getpid(), signal.SIGINT)
        return steps(captured, batches, first)

    with monkeypatch.context() as patch:
        patch.setattr(CUDAGraphStepper, "steps", then_stop)
        assert cli(*EPOCHS, *keys)[0] == 130
    (stopped,) = {path.parent for path in Path("outputs").rglob("checkpoints")} - {Path(os.path.relpath(whole))}
    step = torch.load(stopped / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    assert 12 < step < 24
    assert step % 7
    assert cli(f"resume={stopped}/", defaults=())[0] == 0
    for name, value in weights(whole).items():
        assert_close(weights(stopped)[name], value, rtol=1e-4, atol=1e-5)
    for one, other in zip(rows(whole), rows(stopped), strict=True):
        assert other["step"] == one["step"]
        assert other.get("train/elbo", 0) == pytest.approx(one.get("train/elbo", 0), rel=1e-4)


def test_an_optimiser_that_is_not_made_for_graphs_takes_its_steps_one_by_one(cli, runs, stood_in_for, monkeypatch):
    monkeypatch.setattr("vae.acceleration.cuda_graph.capture_graph", None)
    code, out, _ = cli("optimizer=adagrad", *stood_in_for)
    assert (code, len(runs())) == (0, 1)
    assert "cuda_graph: Adagrad is not made for graphs; its steps are taken one by one" in out


def test_without_a_gpu_is_one_line(cli):
    code, _, err = cli("cuda_graph=true")
    assert (code, err.count("\n")) == (2, 1)
    assert "cuda_graph=true: expected one GPU of NVIDIA's, as with trainer=gpu" in err
    if not torch.cuda.is_available():
        code, _, err = cli("trainer=gpu")
        assert (code, err.count("\n")) == (2, 1)
        assert "trainer.accelerator=gpu: no GPU was found; expected cpu" in err


def test_the_precision_of_products_is_that_of_training_alone(cli, monkeypatch):
    order = []
    monkeypatch.setattr(torch, "set_float32_matmul_precision", order.append)
    for name in ("on_train_start", "on_train_end", "on_test_start"):
        monkeypatch.setattr(Progress, name, lambda *_, name=name: order.append(name))
    monkeypatch.setattr(Progress, "on_train_batch_end", lambda *_: None)
    monkeypatch.setattr(Progress, "on_test_batch_end", lambda *_: None)
    assert cli("matmul_precision=high")[0] == 0
    assert order == ["high", "on_train_start", "on_train_end", "highest", "on_test_start"]


def fitted(line, callbacks):
    """The weights after two epochs of 12 steps on a GPU, and how often Python computed a step's gradients."""
    calls = []

    class Counted(VAEModule):
        def gradients(self, x, weight):
            calls.append(len(x))
            return super().gradients(x, weight)

    with initialize_config_dir(str(CONF), version_base=None):
        cfg = compose("config", [*BARS, "trainer.max_epochs=2", *line.split()])
    seed_everything(0, verbose=False)
    data = load(cfg)
    module = build(cfg, data.shape)
    module.__class__ = Counted
    quiet = {name: False for name in ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")}
    trainer = Trainer(accelerator="gpu", devices=1, max_epochs=2, callbacks=callbacks, num_sanity_val_steps=0, **quiet)
    trainer.fit(module, datamodule=data)
    assert trainer.global_step == 24
    return [parameter.detach().cpu() for parameter in module.parameters()], len(calls)


@on_gpu
@pytest.mark.parametrize("line", [*CHOICES, *(f"optimizer={name}" for name in ("adadelta", "rmsprop")), SHORT_LAST])
def test_on_a_gpu_every_choice_is_played_back(line, monkeypatch):
    monkeypatch.setattr("datamodules.base.BATCHES_PER_CHUNK_ON_GPU", 4)
    one_by_one, calls = fitted(line, [])
    assert calls == 24
    capture_graph, calls = fitted(line, [CUDAGraphSteps()])
    assert calls == 4 + 1 + (2 if line == SHORT_LAST else 0)  # the first, that recorded, and smaller batches
    for one, other in zip(one_by_one, capture_graph, strict=True):
        assert_close(other, one, rtol=1e-3, atol=1e-4)


@on_gpu
@pytest.mark.parametrize("line", ["", "prior=flow objective=iwae objective.K=3 posterior=iaf", "optimizer=rmsprop"])
def test_on_a_gpu_a_compiled_step_is_played_back(line, cli, runs, monkeypatch):
    gradients, calls = VAEModule.gradients, []
    monkeypatch.setattr(VAEModule, "gradients", lambda *given: calls.append(1) or gradients(*given))
    for how in ("false", "true"):
        code, _, err = cli("trainer=gpu", "log_every_n_steps=4", f"compile={how}", *line.split())
        assert code == 0, err
    assert len(calls) == 2 * (4 + 1)
    alone, compiled = (json.loads((run / "summary.json").read_text()) for run in runs())
    assert compiled["test/elbo"] == pytest.approx(alone["test/elbo"], abs=0.05)


@on_gpu
def test_on_a_gpu_a_step_that_cannot_be_recorded_is_one_line(cli, monkeypatch):
    monkeypatch.setattr("datamodules.base.BATCHES_PER_CHUNK_ON_GPU", 4)
    forward = VAEModule.forward
    monkeypatch.setattr(VAEModule, "forward", lambda self, x, weight: x.sum().item() and forward(self, x, weight))
    code, _, err = cli("trainer=gpu")
    assert (code, err.splitlines()[-1].count("cuda_graph=true: this step cannot be recorded")) == (2, 1)
    assert "captur" in err
    assert "Traceback" not in err
