"""ema=: the average of the weights, computed again from those after each step."""

import json

import pytest
import torch
from conftest import BARS, SHORT
from run_outputs import load_checkpoint, load_weights, read_metrics, same_weights
from test_ddp import finish, start
from torch.testing import assert_close

import vae
from vae.training.callbacks.pictures import Pictures
from vae.training.lightning_module import VAEModule

DECAY = 0.8
LINE = [f"ema={DECAY}", "trainer.max_epochs=3"]


@pytest.fixture
def recorded(monkeypatch):
    """The weights before the first optimizer step, and after each."""
    steps = []
    train_on_batch = VAEModule.train_on_batch

    def record(module, *batch):
        current = {name: value.clone() for name, value in module.state_dict().items()}
        steps.append(current)
        return train_on_batch(module, *batch)

    monkeypatch.setattr(VAEModule, "train_on_batch", record)
    return steps


def average(steps, n):
    """The moving average after n steps, of recorded weights that begin with the initial ones."""
    result = {name: value.double() for name, value in steps[0].items()}
    for weights in steps[1 : n + 1]:
        result = {name: DECAY * value + (1 - DECAY) * weights[name] for name, value in result.items()}
    return {name: value.float() for name, value in result.items()}


def assert_close_weights(found, expected):
    for name, value in expected.items():
        assert_close(found[name], value, atol=1e-6, rtol=1e-5)


def test_the_averaged_weights_are_validated_shown_kept_and_tested(cli, runs, recorded, monkeypatch):
    shown = {}
    on_validation_end = Pictures.on_validation_end

    def record(self, trainer, module):
        shown[trainer.global_step] = {name: value.clone() for name, value in module.state_dict().items()}
        on_validation_end(self, trainer, module)

    monkeypatch.setattr(Pictures, "on_validation_end", record)
    assert cli("trainer.max_epochs=3")[0] == 0
    plain = [*recorded, load_weights(*runs())]
    recorded.clear()
    assert cli(*LINE)[0] == 0
    (without, folder) = runs()
    for step, weights in zip(recorded, plain, strict=False):
        assert same_weights(step, weights)  # the training itself is the same
    for step in (12, 24, 36):
        assert_close_weights(shown[step], average(plain, step))
    assert_close_weights(load_weights(folder, "best"), average(plain, 36))
    state = next(state for key, state in load_checkpoint(folder)["callbacks"].items() if "WeightAverage" in key)
    assert_close_weights(dict(zip(plain[36], state["others"], strict=True)), plain[36])  # for a resume
    run = vae.load(folder, trust=True)
    assert_close_weights(run.module.state_dict(), average(plain, 36))
    elbo = {f: [row["val/elbo"] for row in read_metrics(f) if "val/elbo" in row] for f in (without, folder)}
    assert elbo[folder] != elbo[without]
    with torch.inference_mode():
        torch.manual_seed(0)
        x = run.data.x("test").repeat(50, 1, 1, 1)
        found = run.vae.terms(x).elbo.mean().item()
    assert json.loads((folder / "summary.json").read_text())["test/elbo"] == pytest.approx(found, abs=0.3)
    assert not (set(load_checkpoint(folder, "best")) & {"callbacks", "optimizer_states"})


def test_a_training_without_a_validation_ends_with_the_average(cli, runs, recorded):
    short = ["trainer.max_epochs=2", "trainer.check_val_every_n_epoch=5"]
    assert cli(*short)[0] == 0
    steps = [*recorded, load_weights(*runs(), "best")]
    assert cli(*short, f"ema={DECAY}")[0] == 0
    assert_close_weights(load_weights(runs()[1], "best"), average(steps, 24))


@pytest.mark.slow
def test_a_compiled_training_has_the_same_average(cli, runs):
    for compiles in ("false", "true"):
        assert cli(*LINE, f"compile={compiles}")[0] == 0
    plain, compiled = runs()
    for name in ("best", "last"):
        for key, value in load_weights(plain, name).items():
            assert_close(load_weights(compiled, name)[key], value, atol=1e-4, rtol=1e-3)


@pytest.mark.slow
def test_two_processes_have_the_average_of_their_common_weights(tmp_path):
    arguments = [*BARS, *SHORT, "logger=csv", "trainer=ddp", f"ema={DECAY}"]
    for name, decay in (("ema", DECAY), ("tiny", 1e-9)):
        code, output = finish(start(tmp_path, *arguments, f"ema={decay}", f"hydra.run.dir={name}"))
        assert code == 0, output
    checkpoints = [load_checkpoint(tmp_path / name)["callbacks"] for name in ("ema", "tiny")]
    ema, tiny = (next(x for key, x in states.items() if "WeightAverage" in key)["others"] for states in checkpoints)
    assert all(torch.equal(a, b) for a, b in zip(ema, tiny, strict=True))  # the training is the same
    assert_close(list(load_weights(tmp_path / "tiny", "best").values()), tiny)  # with a decay of 0
    assert not torch.allclose(load_weights(tmp_path / "ema")["vae.decoder.net.0.weight"], tiny[4], atol=1e-3)
