"""python -m vae.evaluate, on runs of train.py with the bars dataset."""

import json
import math

import numpy as np
import pytest
import torch
from conftest import BARS, SHORT
from omegaconf import OmegaConf
from torch._inductor import config as inductor
from toy_dataset import Bars
from wandb_server import WandbServer
from warm_process import run_python

from vae.acceleration.compilation import CompiledDraws
from vae.config.schema import CONF
from vae.evaluate import __main__ as evaluate
from vae.evaluate import scores as scores_module
from vae.runs.run_lock import lock_run

ROOT = CONF.parent


@pytest.fixture
def evaluate_cli(module_cli):
    return module_cli(evaluate)


def test_scores_equal_their_definitions_with_the_best_weights(cli, runs, evaluate_cli):
    worse_at_the_end = ["optimizer/schedule=constant", "optimizer.schedule._target_=toy_dataset.WorseAtTheEnd"]
    cli("prior=vampprior", "prior.pseudo_inputs=5", "trainer.max_epochs=5", *worse_at_the_end)
    (folder,) = runs()
    before = json.loads((folder / "summary.json").read_text())
    code, out, err = evaluate_cli(f"run={folder}", "K=2000")
    assert code == 0, err
    with np.load(folder / "scores_K2000.npz") as saved:
        scores = {name: saved[name] for name in saved}
    # computed from the definitions and the weights
    data = Bars("data", 20, 0, 60, 0, "dynamic")
    data.setup()
    x = data.x("test").double().flatten(1)
    best = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)
    w = {name.removeprefix("vae."): value.double() for name, value in best["state_dict"].items()}

    def net(side, x):
        hidden = torch.tanh(x @ w[f"{side}.net.0.weight"].T + w[f"{side}.net.0.bias"])
        return hidden @ w[f"{side}.net.2.weight"].T + w[f"{side}.net.2.bias"]

    normal = torch.distributions.Normal
    mean, log_var = net("encoder", x).chunk(2, -1)
    u_mean, u_log_var = net("encoder", w["prior.u"].clamp(0, 1).flatten(1)).chunk(2, -1)
    torch.manual_seed(1)
    q = normal(mean, (log_var / 2).exp())
    z = q.sample((2000,))
    parts = normal(u_mean, (u_log_var / 2).exp()).log_prob(z.unsqueeze(-2)).sum(-1)
    rate = q.log_prob(z).sum(-1) - (parts.logsumexp(-1) - math.log(5))
    logits = net("decoder", z)
    log_px_z = torch.distributions.Bernoulli(logits=logits).log_prob(x.expand_as(logits)).sum(-1)
    log_px = (log_px_z - rate).logsumexp(0) - math.log(2000)
    np.testing.assert_allclose(scores["log_px"], log_px, atol=0.6)
    found = json.loads((folder / "summary.json").read_text())
    assert {name: found[name] for name in before} == before
    assert found["test/log_px_K2000"] == pytest.approx(log_px.mean().item(), abs=0.05)
    assert found["test/rate_K2000"] == pytest.approx(rate.mean().item(), abs=0.05)
    assert found["test/distortion_K2000"] == pytest.approx(-log_px_z.mean().item(), abs=0.1)
    assert found["test/log_px_se_K2000"] == pytest.approx(scores["log_px"].std(ddof=1) / 120**0.5, rel=1e-4)
    assert found["test/bits_per_dim_K2000"] == pytest.approx(-found["test/log_px_K2000"] / 64 / math.log(2))
    assert found["test/images_K2000"] == 120
    assert f"{found['test/log_px_K2000']:.2f}" in out
    assert data.images["train"].pixels.shape[0] != 120


def test_cached_scores_are_not_computed_again(cli, runs, evaluate_cli, monkeypatch):
    cli()
    (folder,) = runs()
    drawn = []
    sample = scores_module.importance_sample
    monkeypatch.setattr(
        scores_module,
        "importance_sample",
        lambda vae, x, *how, **more: drawn.append(len(x)) or sample(vae, x, *how, **more),
    )
    first = evaluate_cli(f"run={folder}", "K=9", "images=100")
    assert evaluate_cli(f"run={folder}", "K=9", "images=100") == first
    assert drawn == [100]
    assert first[0] == 0
    assert "120" in evaluate_cli(f"run={folder}", "K=9")[1]
    assert drawn == [100, 20]
    assert json.loads((folder / "summary.json").read_text())["test/images_K9"] == 120


@pytest.fixture
def drawn(monkeypatch):
    """The number of images in each call of the compiled sampler."""
    drawn = []

    class Counted(CompiledDraws):
        def bind(self, x):
            drawn.append(len(x))
            return super().bind(x)

    monkeypatch.setattr(scores_module, "CompiledDraws", Counted)
    return drawn


@pytest.mark.slow
def test_the_compiled_sampler_gives_the_same_scores(cli, runs, evaluate_cli, drawn):
    cli()
    (folder,) = runs()
    with inductor.patch("cpp.cxx", ("no-such-compiler",)):
        code, _, err = evaluate_cli(f"run={folder}", "K=30", "compile=true")
    assert (code, err.count("\n"), "compile=true: no C++ compiler" in err) == (2, 1, True)
    kept = folder / "scores_K30.npz"
    assert not kept.exists()
    assert evaluate_cli(f"run={folder}", "K=30")[0] == 0
    with np.load(kept) as saved:
        expected = {name: saved[name] for name in saved}
    kept.unlink()
    for images in (100, 100, 120):  # the second time no image is left; the third time, a batch of 20
        assert evaluate_cli(f"run={folder}", "K=30", f"images={images}", "compile=true")[0] == 0
    assert drawn == [100, 20]
    with np.load(kept) as saved:
        for name in ("log_px", "rate", "distortion"):
            np.testing.assert_allclose(saved[name], expected[name], rtol=1e-5, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("least", "expected"), [(600, [100, 20]), (601, [100]), (3001, [])])
def test_the_sampler_is_compiled_if_enough_samples_are_left(
    least, expected, cli, runs, evaluate_cli, drawn, monkeypatch
):
    """30 samples for each of 100 images, and then for 20 more images."""
    cli()
    monkeypatch.setattr(scores_module, "MIN_DRAWS", least)
    for images in (100, 120):
        assert evaluate_cli(f"run={runs()[0]}", "K=30", f"images={images}")[0] == 0
    assert drawn == expected


def test_scores_are_computed_without_a_compiler(cli, runs, evaluate_cli, drawn, monkeypatch):
    messages = []
    cli()
    monkeypatch.setattr("vae.acceleration.compilation.log.info", messages.append)
    monkeypatch.setattr(scores_module, "MIN_DRAWS", 1)
    with inductor.patch("cpp.cxx", ("no-such-compiler",)):
        assert evaluate_cli(f"run={runs()[0]}", "K=30")[0] == 0
    assert drawn == []
    assert [line.partition(";")[0] for line in messages] == ["compile=auto: no C++ compiler was found"]


def test_ctrl_c_is_one_line_and_exit_code_130(cli, runs, evaluate_cli, monkeypatch):
    cli()
    (folder,) = runs()

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(scores_module, "importance_sample", interrupt)
    before = (folder / "summary.json").read_text()
    code, _, err = evaluate_cli(f"run={folder}", "K=9")
    assert (code, err.count("\n")) == (130, 1)
    assert (folder / "summary.json").read_text() == before


USER_ERRORS = {
    "K=0": ["K=0", "1 or more"],
    "K=many": ["K=many", "whole number"],
    "images=1": ["images=1", "2 or more"],
    "images=121": ["images=121", "2 to 120"],
    "compile=2": ["compile=2", "auto, true or false"],
    "K=1,2": ["K=1,2", "whole number"],
    "image=5": ["image: no such key", "did you mean images?"],
    "run=nowhere": ["run=nowhere", "finished run", "summary.json"],
    "images": ["images"],
}


@pytest.mark.parametrize("argument", USER_ERRORS)
def test_a_user_error_is_one_line_and_exit_code_2(argument, cli, runs, evaluate_cli):
    cli()
    (folder,) = runs()
    code, out, err = evaluate_cli(*([] if argument.startswith("run") else [f"run={folder}"]), argument)
    assert (code, out, err.count("\n")) == (2, "", 1)
    for words in USER_ERRORS[argument]:
        assert words in err


def test_a_run_without_a_bound_or_with_a_damaged_checkpoint_is_rejected(cli, runs, evaluate_cli):
    cli("objective=autoencoder")
    (folder,) = runs()
    assert evaluate_cli(f"run={folder}")[0] == 2
    assert "expected the folder of a finished run" in evaluate_cli("K=3")[2]
    for wrong in (folder.parent, folder.with_name(f"{folder.name}0")):
        assert evaluate_cli(f"run={wrong}")[2].endswith(f"it has no summary.json; did you mean {folder}?\n")
    cli("latent_dim=2", "hydra.run.dir=outputs/other")
    (other,) = set(runs()) - {folder}
    (other / "checkpoints" / "best.ckpt").write_bytes((folder / "checkpoints" / "best.ckpt").read_bytes())
    code, _, err = evaluate_cli(f"run={other}")
    assert (code, err.count("\n")) == (2, 1)
    assert "best.ckpt" in err
    (other / "checkpoints" / "best.ckpt").unlink()
    assert evaluate_cli(f"run={other}")[2].endswith("it has no checkpoints/best.ckpt\n")


def test_a_run_in_which_another_process_works_is_left_alone(cli, runs, evaluate_cli):
    cli()
    (folder,) = runs()
    with lock_run(folder, "resume"):
        code, out, err = evaluate_cli(f"run={folder}", "K=3")
    assert (code, out, err) == (2, "", f"run={folder}: another process is working in this run folder\n")


def test_a_run_of_a_sweep_can_be_scored(cli, runs, evaluate_cli):
    cli("-m", "latent_dim=2,3", "trainer.max_epochs=1")
    for folder in runs():
        assert "=" in folder.name
        assert evaluate_cli(f"run={folder}", "K=3")[0] == 0


def test_help(evaluate_cli):
    code, out, _ = evaluate_cli("--help")
    assert code == 0
    assert "run=outputs/... [K=5000] [images=10000]" in out


DAMAGED = {
    "summary.json": "{",
    ".hydra/config.yaml": "a: [",
    "scores_K4.npz": "nothing",
    "checkpoints/best.ckpt": "nothing",
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_a_one_line_error(name, cli, runs, evaluate_cli):
    cli()
    (folder,) = runs()
    (folder / name).write_text(DAMAGED[name])
    code, out, err = evaluate_cli(f"run={folder}", "K=4")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert name.split("/")[-1] in err
    assert "damaged" in err


def test_a_config_with_a_missing_key_is_a_one_line_error(cli, runs, evaluate_cli):
    cli()
    (folder,) = runs()
    config = folder / ".hydra" / "config.yaml"
    cfg = OmegaConf.load(config)
    del cfg["posterior"]
    OmegaConf.save(cfg, config)
    code, _, err = evaluate_cli(f"run={folder}", "K=4")
    reason = "its config.yaml is damaged or not supported: posterior: missing; expected a group of keys"
    assert (code, err) == (2, f"run={folder}: {reason}\n")


@pytest.mark.slow
def test_the_scores_are_sent_to_the_wandb_run(tmp_path, monkeypatch):
    with WandbServer() as server:
        for name, value in (server.env | {"HOME": str(tmp_path)}).items():
            monkeypatch.setenv(name, value)
        run_python(tmp_path, str(ROOT / "train.py"), *BARS, *SHORT)
        (folder,) = (path.parent for path in (tmp_path / "outputs").rglob("summary.json"))
        run_python(tmp_path, "-m", "vae.evaluate", f"run={folder}", "K=7", "trust=true")
    assert len(server.runs) == 1
    run = server.runs[(folder / "wandb_id").read_text()]
    written = json.loads((folder / "summary.json").read_text())
    assert run.summary["test/log_px_K7"] == pytest.approx(written["test/log_px_K7"])
    assert run.summary["test/log_px"] == pytest.approx(written["test/log_px"])
