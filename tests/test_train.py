"""Whole runs of train.py, on bars."""

import csv
import gc
import io
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import BARS, SHORT
from omegaconf import OmegaConf
from PIL import Image
from pytorch_lightning import seed_everything
from wandb_server import WandbServer

from vae import callbacks, measured
from vae.config import CONF
from vae.experiment import build, load
from vae.model import VAE
from vae.module import VAEModule
from vae.objectives import Beta
from vae.schedules import OneCycle

ROOT = CONF.parent


def rows(folder):
    with (folder / "metrics.csv").open() as file:
        return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]


def weights(folder, name="last"):
    return torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)["state_dict"]


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_a_run_leaves_what_it_should(cli, runs):
    code, out, _ = cli("latent_dim=2", "trainer.max_epochs=4")
    assert code == 0
    (folder,) = runs()
    left = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert left == {
        *(f".hydra/{name}.yaml" for name in ("config", "hydra", "overrides")),
        *(f"checkpoints/{name}.ckpt" for name in ("best", "last")),
        *(
            f"figures/{name}.png"
            for name in (
                "curves",
                "fusions",
                "latents",
                "manifold",
                "mixture_samples",
                "reconstructions",
                "samples",
                "val_reconstructions",
            )
        ),
        *("metrics.csv", "summary.json", "train.log"),
    }
    assert "epoch   4" in (folder / "train.log").read_text()
    for path in (folder / "figures").iterdir():
        pixels = np.asarray(Image.open(path))
        assert min(pixels.shape[:2]) > 100
        assert pixels.max() - pixels.min() > 50
    assert "log_px" in out


def test_on_a_terminal_a_bar_shows_the_curves_and_the_time_left(cli, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("vae.callbacks.tqdm", partial(callbacks.tqdm, mininterval=0, ncols=200))
    _, _, err = cli("trainer.max_epochs=3")
    last = [line for line in re.split(r"[\r\n]", err) if line.startswith("train") and "elbo=" in line][-1]
    assert re.search(r"36/36 \[.*<.*, elbo=-\d+\.\d, kl=\d+\.\d, log_likelihood=-\d+\.\d", last)
    assert re.search(r"test.*1/1", err)


def test_records_are_complete_and_consistent(cli, runs):
    cli("trainer.max_epochs=3")
    (folder,) = runs()
    records = rows(folder)
    assert [r["step"] for r in records if "lr" in r] == [5, 10, 12, 15, 20, 24, 25, 30, 35, 36]
    assert [(r["step"], r["epoch"]) for r in records if "epoch" in r] == [(12, 1), (24, 2), (36, 3)]
    for record in records:
        (split,) = {name.split("/")[0] for name in record if "/" in name}
        elbo, kl, log_likelihood = (record[f"{split}/{name}"] for name in ("elbo", "kl", "log_likelihood"))
        assert elbo == pytest.approx(log_likelihood - kl, abs=1e-3)
        assert kl > 0 > log_likelihood
    assert all(r["images_per_second"] > 0 for r in records if "lr" in r)
    assert [r["images_seen"] for r in records if "epoch" in r] == [240, 480, 720]
    assert all(0 < before["seconds"] <= after["seconds"] for before, after in pairwise(records))
    elbos = [r["train/elbo"] for r in records if "lr" in r]
    assert elbos[-1] > elbos[0] + 3
    assert elbos[0] == pytest.approx(-64 * math.log(2), rel=0.1)  # at first, a pixel is a coin toss


def test_the_weights_of_the_best_epoch_do_not_bring_back_its_time(cli, runs):
    cli("trainer.max_epochs=5", "optimizer/schedule=constant", "optimizer.schedule._target_=bars.WorseAtTheEnd")
    (folder,) = runs()
    *trained, tested = rows(folder)
    best = max((row for row in trained if "epoch" in row), key=lambda row: row["val/elbo"])
    assert best["epoch"] < 5
    assert tested["images_seen"] == trained[-1]["images_seen"] == 5 * 240


def test_the_best_epoch_is_tested_on_the_test_images(cli, runs, monkeypatch):
    turning = ["optimizer/schedule=constant", "optimizer.schedule._target_=bars.WorseAtTheEnd"]
    cli("trainer.max_epochs=5", "test.K=2000", *turning)
    (folder,) = runs()
    summary = json.loads((folder / "summary.json").read_text())
    val = [r["val/elbo"] for r in rows(folder) if "val/elbo" in r]
    monkeypatch.syspath_prepend(str(ROOT / "tests"))
    best = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["epoch"] == int(np.argmax(val)) < 4
    # the same figures from the weights alone, by the definitions
    from bars import Bars
    from torch.nn.functional import binary_cross_entropy_with_logits

    data = Bars("data", 20, 0, 60, 0, "dynamic")
    data.setup()
    x = data.x("test").flatten(1)
    w = {name.removeprefix("vae."): value for name, value in best["state_dict"].items()}
    layer = {
        side: [(w[f"{side}.net.{i}.weight"], w[f"{side}.net.{i}.bias"]) for i in (0, 2)]
        for side in ("encoder", "decoder")
    }

    def net(side, x):
        (W0, b0), (W1, b1) = layer[side]
        return torch.tanh(x @ W0.T + b0) @ W1.T + b1

    mean, log_var = net("encoder", x).chunk(2, -1)
    torch.manual_seed(1)
    noise = torch.randn(2000, *mean.shape)
    z = mean + noise * (log_var / 2).exp()
    log_px_z = -binary_cross_entropy_with_logits(net("decoder", z), x.expand(2000, -1, -1), reduction="none").sum(-1)
    kl = (mean**2 + log_var.exp() - 1 - log_var).sum(-1) / 2
    log_w = log_px_z + (-(z**2) + noise**2 + log_var).sum(-1) / 2
    assert summary["test/kl"] == pytest.approx(kl.mean().item(), abs=1e-3)
    assert summary["test/elbo"] == pytest.approx((log_px_z.mean(0) - kl).mean().item(), abs=0.6)
    exact = log_w.logsumexp(0) - math.log(2000)
    assert summary["test/log_px"] == pytest.approx(exact.mean().item(), abs=0.15)
    assert summary["test/log_px_se"] == pytest.approx(exact.std().item() / 120**0.5, rel=0.1)
    assert summary["test/active_units"] == (mean.var(0) > 0.01).sum()
    assert summary["test/bits_per_dim"] == pytest.approx(-summary["test/log_px"] / 64 / math.log(2))
    shown = net("decoder", mean).sigmoid()
    assert summary["test/squared_error"] == pytest.approx((shown - x).square().sum(1).mean().item(), rel=1e-4)
    mean_image = data.images["train"].pixels.flatten(1).double().mean(0) / 255
    baseline = (mean_image - x).square().sum(1).mean().item()
    assert summary["test/squared_error_of_mean_image"] == pytest.approx(baseline, rel=1e-4)
    assert summary["test/elbo"] < summary["test/log_px"] < 0


def test_log_px_of_the_first_images_alone(cli, monkeypatch):
    seen = []
    estimate = measured.importance_sample
    spied = lambda vae, x, K: seen.append((len(x), K)) or estimate(vae, x, K)  # noqa: E731
    monkeypatch.setattr(measured, "importance_sample", spied)
    monkeypatch.setattr("datamodules.base.EVAL_BATCH", 50)
    code, _, _ = cli("test.images=70", "test.K=9")
    assert code == 0
    assert seen == [(50, 9), (20, 9)]


def test_the_learning_rate_follows_its_schedule(cli, runs):
    assert cli("log_every_n_steps=1", "optimizer.lr=0.01")[0] == 0
    (folder,) = runs()
    rates = [row["lr"] for row in rows(folder) if "lr" in row]
    expected = [
        0.01 * OneCycle(warmup=0.1)((step + 1) / 25) for step in range(24)
    ]  # neither the first is 0 nor the last
    assert rates == pytest.approx(expected)
    assert min(rates) > 0


def test_same_seed_same_numbers_other_seed_others(cli, runs):
    for seed in (1, 1, 2):
        cli(f"seed={seed}")
    a, b, c = map(weights, runs())
    assert same(a, b)
    assert not same(a, c)
    first, second, third = (json.loads((folder / "summary.json").read_text()) for folder in runs())
    assert first == second != third


def timeless(folder):
    """The records of a run, but for what a clock says."""
    return [row | {"images_per_second": 0, "seconds": 0} for row in rows(folder)]


EPOCHS = ["trainer.max_epochs=4"]
LATER = [*EPOCHS, "compile=auto"]
STEPS = ["trainer.max_epochs=-1", "trainer.max_steps=45", "prior=vampprior", "patience=9"]


@pytest.mark.parametrize(
    ("limit", "stop_after", "by", "code"),
    [
        (EPOCHS, 12, "signal", 130),
        (EPOCHS, 29, "signal", 130),
        (EPOCHS, 29, "crash", 1),
        ([*EPOCHS, "compile=true"], 29, "signal", 130),
        (LATER, 9, "signal", 130),
        (LATER, 12, "signal", 130),
        (LATER, 29, "signal", 130),
        (STEPS, 12, "signal", 130),
        (STEPS, 29, "signal", 130),
        (STEPS, 29, "crash", 1),
    ],
)
def test_a_run_stopped_and_resumed_ends_in_the_same_weights(stop_after, by, code, limit, cli, runs, monkeypatch):
    """Stopped by Ctrl-C, with a checkpoint where it was, or by a crash, with that of the last epoch (of 12 steps)."""
    monkeypatch.setattr("vae.callbacks.STEPS", 36 if "compile=auto" in limit else math.inf)
    code_of_whole, out, _ = cli(*limit)
    assert (code_of_whole, "compiling" in out) == (0, {"compile=auto", "compile=true"} & set(limit) != set())
    (whole,) = runs()
    step = VAEModule.step

    def then_stop(module, x):
        if module.global_step == stop_after - 1:
            if by == "crash":
                sys.exit(1)
            os.kill(os.getpid(), signal.SIGINT)
        return step(module, x)

    with monkeypatch.context() as patch:
        patch.setattr(VAEModule, "step", then_stop)
        assert cli(*limit)[0] == code
    (stopped,) = {path.parent for path in Path("outputs").rglob("checkpoints")} - {Path(os.path.relpath(whole))}
    assert not (stopped / "summary.json").exists()
    kept = torch.load(stopped / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    assert kept >= stop_after if by == "signal" else kept == 24
    torch.manual_seed(99)
    assert cli(f"resume={stopped}/", defaults=())[0] == 0
    assert same(weights(stopped), weights(whole))
    assert same(weights(stopped, "best"), weights(whole, "best"))
    assert (stopped / "summary.json").read_text() == (whole / "summary.json").read_text()
    assert timeless(stopped) == timeless(whole)


def test_a_run_whose_epochs_are_one_batch_of_batches_stops_after_one(cli, runs, monkeypatch):
    monkeypatch.setattr("datamodules.base.AT_ONCE", 100)
    assert cli(*EPOCHS)[0] == 0
    (whole,) = runs()
    step = VAEModule.step

    def then_stop(module, x):
        if module.global_step == 17:
            os.kill(os.getpid(), signal.SIGINT)
        return step(module, x)

    with monkeypatch.context() as patch:
        patch.setattr(VAEModule, "step", then_stop)
        assert cli(*EPOCHS)[0] == 130
    (stopped,) = {path.parent for path in Path("outputs").rglob("checkpoints")} - {Path(os.path.relpath(whole))}
    assert torch.load(stopped / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 24
    assert cli(f"resume={stopped}/", defaults=())[0] == 0
    assert same(weights(stopped), weights(whole))
    assert timeless(stopped) == timeless(whole)


def test_garbage_is_collected_once_a_training_begins(cli):
    gc.disable()
    try:
        assert cli()[0] == 0
        assert gc.isenabled()
    finally:
        gc.enable()


def test_what_is_left_at_the_end_is_recorded_too(cli, runs):
    assert cli("trainer.max_steps=17", "log_every_n_steps=10")[0] == 0
    assert [row["step"] for row in rows(*runs()) if "train/elbo" in row] == [10, 12, 17]


def test_many_steps_at_a_time_are_the_steps_one_at_a_time(cli, runs, monkeypatch):
    cli("trainer.max_epochs=4", "trainer.max_steps=31", "log_every_n_steps=2")
    monkeypatch.setattr("datamodules.base.AT_ONCE", 1)
    cli("trainer.max_epochs=4", "trainer.max_steps=31", "log_every_n_steps=2")
    many, one = runs()
    assert same(weights(many), weights(one))
    assert (many / "summary.json").read_text() == (one / "summary.json").read_text()
    assert timeless(many) == timeless(one)
    assert torch.load(many / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 31


@pytest.mark.parametrize("how", ["compile=false", "compile=true"])
def test_the_steps_are_those_of_a_plain_loop(how, cli, runs):
    one = ["trainer.max_epochs=1", "gradient_clip_val=2.0", "optimizer/schedule=constant", "optimizer.fused=false"]
    assert cli(*one, "objective=beta", "objective.beta=0.5", "dataset.val_size=67", how)[0] == 0
    (folder,) = runs()
    cfg = OmegaConf.load(folder / ".hydra" / "config.yaml")
    seed_everything(cfg.seed, verbose=False)
    data = load(cfg)
    vae = build(cfg, data.shape).vae
    data.trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("cpu")), current_epoch=0)
    adam = torch.optim.Adam(vae.parameters(), lr=cfg.optimizer.lr)
    for x in (x for batches in data.train_dataloader() for x in batches):
        adam.zero_grad()
        terms = vae.terms(x)
        (-terms.log_likelihood + 0.5 * terms.kl).mean().backward()
        assert torch.nn.utils.clip_grad_norm_(vae.parameters(), 2.0) > 2
        adam.step()
    kept = weights(folder)
    for name, value in vae.state_dict().items():
        torch.testing.assert_close(kept[f"vae.{name}"], value)


def test_resume_of_what_is_no_run_is_one_line(cli, tmp_path):
    (tmp_path / "run" / ".hydra").mkdir(parents=True)
    for needed in (".hydra/config.yaml", "checkpoints/last.ckpt"):
        code, _, err = cli(f"resume={tmp_path / 'run'}", defaults=())
        assert (code, err.count("\n")) == (2, 1)
        assert needed in err
        (tmp_path / "run" / ".hydra" / "config.yaml").write_text("{}")
    assert "expected no other key" in cli("resume=run", "seed=1", defaults=())[2]


def test_a_new_run_does_not_mix_with_an_old_one(cli, runs):
    cli("hydra.run.dir=outputs/mine")
    (folder,) = runs()
    before = (folder / "metrics.csv").read_text(), (folder / "checkpoints" / "last.ckpt").read_bytes()
    code, _, err = cli("hydra.run.dir=outputs/mine", "seed=1")
    assert (code, err.count("\n")) == (2, 1)
    assert "hydra.run.dir" in err
    assert before == ((folder / "metrics.csv").read_text(), (folder / "checkpoints" / "last.ckpt").read_bytes())


def test_resume_of_a_damaged_checkpoint_is_one_line(cli, runs):
    cli()
    (folder,) = runs()
    whole = (folder / "checkpoints" / "last.ckpt").read_bytes()
    (folder / "checkpoints" / "last.ckpt").write_bytes(whole[: len(whole) // 2])
    (folder / "metrics.csv").unlink()
    before = {path.relative_to(folder) for path in folder.rglob("*")}
    code, _, err = cli(f"resume={folder}", defaults=())
    assert (code, err.count("\n")) == (2, 1)
    assert "last.ckpt is damaged" in err
    assert {path.relative_to(folder) for path in folder.rglob("*")} == before


def test_a_run_of_a_sweep_resumes_where_its_folder_was_moved_to(cli, runs, tmp_path):
    turning = ["optimizer/schedule=constant", "optimizer.schedule._target_=bars.WorseAtTheEnd"]
    cli("-m", "seed=0,1", "trainer.max_epochs=5", *turning)
    (_, folder) = runs()
    before = (folder / "summary.json").read_text()
    moved = tmp_path / "moved" / folder.name
    moved.parent.mkdir()
    folder.rename(moved)
    assert "=" in moved.name
    assert cli(f"resume={moved}", defaults=())[0] == 0
    assert (moved / "summary.json").read_text() == before
    assert not folder.exists()


@pytest.mark.parametrize(
    ("broken", "term", "value"),
    [("kl", "kl", math.inf), ("log_px_z", "log_likelihood", math.nan), ("log_px_z", "log_likelihood", -math.inf)],
)
def test_a_loss_that_is_not_finite_stops_the_run_with_its_step_and_term(
    broken, term, value, cli, tmp_path, monkeypatch
):
    terms = VAE.terms

    def then_broken(vae, x, K=1):
        found = terms(vae, x, K)
        if torch.is_grad_enabled() and next(drawn) == 8:
            vars(found)[broken] = torch.full_like(getattr(found, broken), value)
        return found

    drawn = iter(range(1000))  # the first is the check before the run
    monkeypatch.setattr(VAE, "terms", then_broken)
    code, _, err = cli()
    assert (code, err.count("\n")) == (2, 1)
    assert f"diverged at step 8: {term} is {value}" in err
    assert "optimizer.lr" in err
    assert "gradient_clip_val" in err
    (kept,) = tmp_path.rglob("metrics.csv")
    assert rows(kept.parent)[-1]["step"] == 7


def test_a_training_that_diverges_says_so(cli, tmp_path):
    code, _, err = cli("optimizer.lr=1e30")
    assert (code, err.count("\n")) == (2, 1)
    assert "diverged at step" in err
    assert "optimizer.lr" in err
    assert len(list(tmp_path.rglob("metrics.csv"))) == 1


def test_a_sweep_leaves_a_folder_for_each_value(cli, runs):
    code, _, _ = cli("-m", "latent_dim=1,2,5", "trainer.max_epochs=1")
    assert code == 0
    swept = [dict(pair.split("=", 1) for pair in folder.name.split(",") if "=" in pair) for folder in runs()]
    assert [run["latent_dim"] for run in swept] == ["1", "2", "5"]
    sizes = [weights(folder)["vae.decoder.net.0.weight"].shape[1] for folder in runs()]
    assert sizes == [1, 2, 5]


@pytest.mark.parametrize(
    "arguments",
    [
        ["activation=relu", "hidden_size=[12,6]"],
        ["dataset.binarize=static"],
        ["dataset.binarize=none", "likelihood=continuous_bernoulli"],
        ["experiment=manifold"],
        ["experiment=livestream", "trainer.max_steps=30", "log_every_n_steps=10"],
        ["logger=none", "optimizer/schedule=constant", "gradient_clip_val=1.0"],
        ["prior=vampprior", "prior.pseudo_inputs=7", "objective=iwae", "optimizer=rmsprop"],
        ["prior=flow", "posterior=iaf", "optimizer=adagrad"],
        ["prior=two_layers", "objective=dreg", "optimizer/schedule=powers_of_three"],
    ],
    ids=" ".join,
)
def test_variants_run(arguments, cli, runs):
    assert cli(*arguments)[0] == 0
    (folder,) = runs()
    assert all(math.isfinite(value) for value in json.loads((folder / "summary.json").read_text()).values())


def test_grey_cross_entropy_is_recorded_under_its_own_name(cli, runs):
    code, out, _ = cli("dataset.binarize=none", "likelihood=grey_cross_entropy")
    assert code == 0
    (folder,) = runs()
    header = (folder / "metrics.csv").read_text().split("\n")[0].split(",")
    for split in ("train", "val", "test"):
        assert {f"{split}/minus_cross_entropy", f"{split}/minus_cross_entropy_less_kl"} <= set(header)
    for word in ("elbo", "log_likelihood", "log_px", "bits"):
        assert word not in " ".join(header) + (folder / "summary.json").read_text() + out
    for row in (row for row in rows(folder) if "val/kl" in row):
        bound = row["val/minus_cross_entropy"] - row["val/kl"]
        assert row["val/minus_cross_entropy_less_kl"] == pytest.approx(bound, abs=1e-3)
    assert (folder / "checkpoints" / "best.ckpt").exists()


def test_warm_up_knows_where_in_the_run_it_is_and_leaves_the_elbo_what_it_is(cli, monkeypatch):
    """A run of 3 epochs of 12 steps, cut off in the second: beta belongs to the step, also after it goes on."""
    seen = []
    weight, call = Beta.weight, Beta.__call__

    def asked(self, done):
        self.done = done
        return weight(self, done)

    def spied(self, terms, beta):
        if torch.is_grad_enabled():
            seen.append((self.done, beta))
        if len(seen) == 20 and not stopped:
            stopped.append(True)
            sys.exit(1)
        return call(self, terms, beta)

    stopped = []
    monkeypatch.setattr(Beta, "weight", asked)
    monkeypatch.setattr(Beta, "__call__", spied)
    warm = ["objective=beta", "objective.beta=1.0", "objective/schedule=linear", "objective.schedule.warmup=0.5"]
    assert cli(*warm, "trainer.max_epochs=3")[0] == 1
    (folder,) = (path.parent for path in Path("outputs").rglob("checkpoints"))
    assert seen.pop(0)[0] == 0.0  # the check before the run
    assert [done for done, _ in seen] == pytest.approx([step / 36 for step in range(19)])
    seen.clear()
    assert cli(f"resume={folder}", defaults=())[0] == 0
    assert seen.pop(0)[0] == 0.0
    assert [done for done, _ in seen] == pytest.approx([step / 36 for step in range(12, 36)])
    assert [beta for _, beta in seen] == pytest.approx([min(1, step / 18) for step in range(12, 36)])
    for row in (row for row in rows(folder) if "lr" in row):
        assert row["train/elbo"] == pytest.approx(row["train/log_likelihood"] - row["train/kl"], abs=1e-3)
    for row in (row for row in rows(folder) if "val/elbo" in row):
        assert row["val/objective"] == pytest.approx(row["val/elbo"])  # as at the end of the warm-up


def test_patience_ends_a_training_that_gets_no_better(cli, runs):
    turning = ["optimizer/schedule=constant", "optimizer.schedule._target_=bars.WorseAtTheEnd"]
    assert cli("trainer.max_epochs=30", "patience=2", *turning)[0] == 0
    (folder,) = runs()
    val = [r["val/objective"] for r in rows(folder) if "val/objective" in r]
    assert int(np.argmax(val)) == len(val) - 3
    assert len(val) < 30
    last, summary = (folder / "checkpoints" / "last.ckpt").read_bytes(), (folder / "summary.json").read_text()
    (folder / "summary.json").write_text(json.dumps(json.loads(summary) | {"test/log_px_K5": -1.0}))
    assert cli(f"resume={folder}", defaults=())[0] == 0  # it has ended, and there is nothing to go on with
    assert (folder / "checkpoints" / "last.ckpt").read_bytes() == last
    assert [r["val/objective"] for r in rows(folder) if "val/objective" in r] == val
    assert json.loads((folder / "summary.json").read_text()) == json.loads(summary) | {"test/log_px_K5": -1.0}


def test_the_best_epoch_is_that_of_the_objective(cli, runs, monkeypatch):
    drawn, of_known = set(), VAE.drawn
    spied = lambda vae, *known: drawn.add((torch.is_grad_enabled(), known[-1])) or of_known(vae, *known)  # noqa: E731
    monkeypatch.setattr(VAE, "drawn", spied)
    assert cli("objective=iwae", "objective.K=20", "trainer.max_epochs=4")[0] == 0
    (folder,) = runs()
    assert {K for training, K in drawn if training} == {20}  # and for the test, 1 and test.K
    assert {K for training, K in drawn if not training} == {1, 4, 20}
    val = [r for r in rows(folder) if "val/elbo" in r]
    assert all(r["val/objective"] > r["val/elbo"] for r in val)
    best = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)["epoch"]
    assert best == int(np.argmax([r["val/objective"] for r in val]))


def test_an_autoencoder_records_no_elbo(cli, runs):
    assert cli("-m", "objective=autoencoder,elbo")[0] == 0
    folder, other = runs()
    assert "test/elbo" in (other / "summary.json").read_text()
    words = (folder / "metrics.csv").read_text() + (folder / "summary.json").read_text()
    for word in ("elbo", "kl", "log_likelihood", "log_px", "bits"):
        assert word not in words
    summary = json.loads((folder / "summary.json").read_text())
    assert set(summary) == {f"test/{n}" for n in ("squared_error", "squared_error_of_mean_image", "active_units")}
    records = [r["val/squared_error"] for r in rows(folder) if "val/squared_error" in r]
    assert [-r["val/objective"] for r in rows(folder) if "val/objective" in r] == pytest.approx(records)


def test_a_density_has_no_bits_per_dim(cli, runs):
    for likelihood in ("continuous_bernoulli", "gaussian"):
        assert cli("dataset.binarize=none", f"likelihood={likelihood}")[0] == 0
    for folder in runs():
        summary = json.loads((folder / "summary.json").read_text())
        assert "test/log_px" in summary
        assert "test/bits_per_dim" not in summary


def test_digits_need_no_network(cli, runs, monkeypatch):
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("it asks the network"))
    monkeypatch.setenv("PATH", "")
    code, _, err = cli("dataset=digits", "trainer.max_epochs=8", defaults=(*SHORT, "hidden_size=100", "logger=csv"))
    assert code == 0, err
    (folder,) = runs()
    elbo = [row["val/elbo"] for row in rows(folder) if "val/elbo" in row]
    assert elbo[-1] > elbo[0] + 10
    # a uniform guess among 17 levels costs log2 17 bits; one that knows how often each level occurs, about 3
    assert json.loads((folder / "summary.json").read_text())["test/bits_per_dim"] < 3
    assert len(list((folder / "figures").glob("*.png"))) == 7


@pytest.mark.parametrize("likelihood", ["discretized_logistic", "shades", "pixel_art", "pixelcnn_logistic"])
def test_a_folder_of_colour_pictures_that_are_not_square(likelihood, cli, runs, tmp_path):
    (tmp_path / "mine").mkdir()
    rng = np.random.default_rng(0)
    for i in range(40):
        Image.fromarray(rng.integers(0, 256, (9, 12, 3)).astype(np.uint8)).save(tmp_path / "mine" / f"{i:02}.png")
    folder = [f"dataset.path={tmp_path / 'mine'}", "dataset.size=[9,12]", "architecture.encoder.channels=[4,6]"]
    small = ["dataset=folder", f"likelihood={likelihood}", *folder, "latent_dim=2", "hidden_size=8", "logger=csv"]
    assert cli(*small, defaults=SHORT)[0] == 0
    (folder,) = runs()
    assert all(math.isfinite(value) for value in json.loads((folder / "summary.json").read_text()).values())
    (folder / "summary.json").unlink()
    assert cli(f"resume={folder}", defaults=())[0] == 0
    pictures = {path.stem: np.asarray(Image.open(path)) for path in (folder / "figures").glob("*.png")}
    assert set(pictures) >= {"samples", "reconstructions", "mixture_samples", "fusions", "manifold"}
    assert pictures["samples"].std(-1).max() > 5  # in colour


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_cleanly(signum, code, tmp_path):
    """From outside, as a terminal or a scheduler sends it: to every process of the group."""
    arguments = [*BARS, "trainer.max_epochs=500", "logger=wandb"]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *arguments],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT / "tests"), "WANDB_MODE": "offline", "HOME": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0,
    )
    said = []
    for line in process.stdout:
        said.append(line)
        if line.startswith("epoch   3"):
            os.killpg(process.pid, signum)
    assert process.wait(60) == code, "".join(said)
    assert "Traceback" not in "".join(said)
    assert "python train.py resume=" in said[-1]
    (last,) = tmp_path.rglob("last.ckpt")
    checkpoint = torch.load(last, weights_only=True)
    assert checkpoint["global_step"] > 3 * 12
    assert rows(last.parent.parent)[-1]["step"] <= checkpoint["global_step"]


def test_every_run_of_a_sweep_arrives_in_wandb(tmp_path):
    """The real train.py, online, against a stand-in server; the second of three runs cannot be trained."""
    with WandbServer() as server:
        done = subprocess.run(
            [sys.executable, str(ROOT / "train.py"), "-m", *BARS, *SHORT, "latent_dim=2,0,4"],
            cwd=tmp_path,
            env=os.environ | server.env | {"PYTHONPATH": str(ROOT / "tests"), "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert done.returncode == 1
    assert "latent_dim=0: expected a whole number" in done.stdout + done.stderr
    folders = sorted(path.parent for path in (tmp_path / "outputs" / "sweeps").rglob("summary.json"))
    assert len(folders) == len(server.runs) == 2
    for folder, latent_dim in zip(folders, (2, 4), strict=True):
        run = server.runs[(folder / "wandb_id").read_text()]
        assert (folder / "train.log").exists()
        assert run.about["groupName"] == folder.parent.name
        assert run.about["displayName"] == f"latent_dim={latent_dim}"
        assert run.exit_code == 0
        assert (run.about["groupName"], run.about["jobType"]) == (folder.parent.name, "sweep")
        assert f"latent_dim={latent_dim}" in run.about["displayName"]
        assert run.config["latent_dim"] == latent_dim
        assert run.config["dataset"]["binarize"] == "dynamic"
        assert run.config["optimizer"]["schedule"]["warmup"] == 0.1
        logged = {name for row in run.history for name in row}
        for split in ("train", "val", "test"):
            assert {f"{split}/{name}" for name in ("elbo", "kl", "log_likelihood")} <= logged
        assert {"lr", "images_per_second", "test/log_px", "test/log_px_se", "test/active_units"} <= logged
        written = json.loads((folder / "summary.json").read_text())
        assert {name: run.summary[name] for name in written} == pytest.approx(written)
        names = {path.stem for path in (folder / "figures").iterdir()}
        assert names <= logged
        assert run.summary["val/elbo"] == {"max": max(row["val/elbo"] for row in rows(folder) if "val/elbo" in row)}
        assert all("images_seen" in row for row in run.history if "train/elbo" in row or "val/elbo" in row)
        samples = (np.asarray(Image.open(io.BytesIO(f))) for p, f in run.files.items() if "/samples" in p)
        drawn = np.asarray(Image.open(folder / "figures" / "samples.png"))
        assert any(np.array_equal(picture, drawn) for picture in samples)


def test_the_readme_s_dataset_and_prior_work(tmp_path):
    for name in ("conf", "vae", "datamodules", "train.py"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    text = (ROOT / "README.md").read_text()
    blocks = re.findall(r"`((?:conf|vae|datamodules)/\w+(?:/\w+)?\.\w+)`[^`]*:\n\n```\w+\n(.*?)```", text, re.DOTALL)
    assert [path for path, _ in blocks] == [
        "conf/dataset/stripes.yaml",
        "datamodules/stripes.py",
        "conf/prior/laplace.yaml",
        "vae/laplace.py",
    ]
    for path, block in blocks:
        (tmp_path / path).write_text(block)
    done = subprocess.run(
        [sys.executable, "train.py", *SHORT, "dataset=stripes", "prior=laplace", "latent_dim=2", "logger=none"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    (summary,) = tmp_path.rglob("summary.json")
    assert math.isfinite(json.loads(summary.read_text())["test/log_px"])
