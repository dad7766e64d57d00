"""What a run makes of images, compared with linear models whose codes, pictures and log p(x) are known."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fakes import SHAPE, Four, Halves, Pixels, code, load_data
from linear_gaussian import linear_gaussian
from omegaconf import OmegaConf
from PIL import Image
from torch import nn
from torch.distributions import MultivariateNormal

import vae
from vae.api.run import Run
from vae.errors import UserError
from vae.model.likelihoods import Bernoulli
from vae.model.priors import StandardNormal
from vae.model.vae import VAE


def run_of(model, data, latent_dim, has_elbo=True):
    """A run with this model, without a folder."""
    config = OmegaConf.create({"latent_dim": latent_dim, "dataset": "four"})
    run = Run(Path("outputs/four"), config, {}, (), {"test/elbo": -1.25}, None)
    module, about = SimpleNamespace(vae=model, has_elbo=has_elbo), SimpleNamespace(labels=[])
    run.__dict__.update(data=data, module=module, about_images=about)
    return run


@pytest.fixture
def run():
    torch.manual_seed(0)
    return run_of(VAE(nn.Identity(), Halves(), Pixels(), Bernoulli(), StandardNormal(4, SHAPE)), load_data(Four), 4)


def test_codes_and_pictures_are_those_of_the_model(run):
    pixels = run.data.images["test"].pixels
    z = run.encode(pixels)
    np.testing.assert_allclose(z, code(pixels / 255), atol=1e-6)
    np.testing.assert_allclose(run.encode(run.images("test")), z)
    np.testing.assert_allclose(run.decode(z).x.flatten(1), torch.tensor(z).sigmoid())
    np.testing.assert_allclose(run.decode(z[3]).array, run.decode(z).array[3:4])
    np.testing.assert_allclose(run.reconstruct(pixels).array, run.decode(z).array)
    np.testing.assert_array_equal(run.labels("train"), run.data.images["train"].labels)
    assert run.labels("test") is None


def test_log_px_is_exact_where_the_posterior_is():
    model, _, _ = linear_gaussian(widen=1.0)
    model.device_holder = nn.Parameter(torch.zeros(()))
    W = model.decoder.W
    data = SimpleNamespace(
        shape=(1, 2, 2),
        binarize="none",
        split_seed=0,
        images={"train": SimpleNamespace(pixels=torch.zeros(1, 1, 2, 2, dtype=torch.uint8))},
    )
    x = torch.tensor([[0, 51, 255, 102], [255, 255, 0, 0]], dtype=torch.uint8).view(2, 2, 2)
    exact = MultivariateNormal(torch.zeros(4), W @ W.T + 0.25 * torch.eye(4)).log_prob(x.flatten(1) / 255)
    run = run_of(model, data, 2)
    for K in (1, 7):
        np.testing.assert_allclose(run.log_px(x, K=K), exact, atol=1e-4)
    with pytest.raises(UserError, match="not a bound"):
        run_of(model, data, 2, has_elbo=False).log_px(x)


def test_samples_follow_temperature_and_seed(run):
    np.testing.assert_allclose(run.sample(3, temperature=0.0).array, np.full((3, 4), 0.5))
    state = torch.get_rng_state()
    first, again, other = (run.sample(5, seed=seed).array for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.array_equal(run.sample(5).array, run.sample(5).array)
    mixture = run.sample(400, source="mixture", seed=0).x.logit().flatten(1)
    assert mixture[:, 2:].std() < 0.3  # 1 under the prior


def test_interpolation_goes_from_one_reconstruction_to_the_other(run):
    strip = run.interpolate(0, run.images()[5:6], steps=5, interpolation="linear").array
    np.testing.assert_allclose(strip[[0, -1]], run.reconstruct([0, 5]).array, atol=1e-6)
    middle = (run.encode(0) + run.encode(5)) / 2
    np.testing.assert_allclose(run.fuse(0, 5, interpolation="linear").array, run.decode(middle).array, atol=1e-6)
    np.testing.assert_allclose(strip[2:3], run.decode(middle).array, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda run: run.images("tset"), "split=tset: expected one of train, val, test; did you mean test?"),
        (lambda run: run.sample(0), "n=0: expected a whole number, 1 or more"),
        (lambda run: run.sample(temperature=-1), "temperature=-1: expected a number of 0 or more"),
        (lambda run: run.sample(source="mix"), "source=mix: expected one of prior, mixture"),
        (lambda run: run.log_px(0, K=0.5), "K=0.5: expected a whole number, 1 or more"),
        (lambda run: run.interpolate(0, 1, steps=1), "steps=1: expected a whole number, 2 or more"),
        (lambda run: run.fuse(0, [1, 2]), "b: expected one image; got 2"),
        (lambda run: run.decode([1.0]), "z: expected an array of shape (N, 4); got (1,)"),
        (lambda run: run.fuse(0, 1, candidates=0), "candidates=0: expected a whole number, 1 or more"),
        (lambda run: run.decode(np.zeros(4), candidates=2), "candidates=2: expected 1, because the pixels of this run"),
        (lambda run: run.decode("abc"), "z: expected an array of shape (N, 4); got str"),
        (lambda run: run.encode(10), "images=10: expected 0 to 9, the number of a test image"),
        (lambda run: run.encode("mew"), "images=mew: expected the number of a test image, 0 to 9, or a file"),
        (
            lambda run: run.encode(None),
            "images: expected an array, names, numbers of test images or files; got NoneType",
        ),
        (lambda run: run.encode(np.zeros((2, 4, 3))), "images: expected an array of shape (N, 1, 1, 4)"),
        (lambda run: run.encode(np.full((2, 1, 4), 2.0)), "in [0, 1]; got values from 2 to 2"),
        (lambda run: run.encode(np.full((2, 1, 4), np.nan)), "in [0, 1]; got values from nan to nan"),
        (lambda run: run.encode(np.full((2, 1, 4), 7)), "in [0, 1]; got int64"),
    ],
)
def test_wrong_arguments_are_one_line(run, call, message):
    with pytest.raises(UserError) as error:
        call(run)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_trained_run_shows_its_settings_metrics_and_pictures(cli, runs, monkeypatch):
    monkeypatch.setattr("sys.argv", ["python"])
    assert cli("trainer.max_epochs=1", "optimizer.lr=0.002")[0] == 0
    (folder,) = runs()
    run = vae.load()
    assert run.folder.resolve() == folder.resolve()
    assert vae.load(str(folder)).summary == run.summary
    assert run.encode(run.images("test")[:7]).shape == (7, 3)
    assert f"test/elbo {run.summary['test/elbo']:.2f}" in repr(run)
    assert "latent_dim=3" in repr(run)
    page = run._repr_html_()
    assert "<td>optimizer.lr</td><td>0.002</td>" in page
    assert f"<td>test/log_px</td><td>{run.summary['test/log_px']:.2f}</td>" in page
    assert page.count("<img src='data:image/webp;base64,") == len(run.figures) >= 6
    assert all(isinstance(picture, Image.Image) for picture in run.figures.values())
    assert run.metrics["test/elbo"].iloc[-1] == pytest.approx(run.summary["test/elbo"])
    assert len(run.metrics) == len(run.history)
    with pytest.raises(UserError, match=r"vae.load\(FOLDER\)"):
        type(run.module).load_from_checkpoint(folder / "checkpoints" / "best.ckpt")


@pytest.mark.slow
def test_runs_are_sorted_shown_as_a_table_and_compared_on_a_page(cli, tmp_path):
    for latent_dim in (1, 2):
        cli("trainer.max_epochs=1", f"latent_dim={latent_dim}")
    runs = vae.load_runs()
    assert [run.summary["test/log_px"] for run in runs] == sorted(
        (r.summary["test/log_px"] for r in runs), reverse=True
    )
    assert sorted(runs.table["latent_dim"]) == ["1", "2"]
    assert list(runs.table["test/log_px"]) == [run.summary["test/log_px"] for run in runs]
    assert repr(runs).splitlines()[1].startswith("*")
    assert runs._repr_html_().count("<tr") == 3
    assert "plotly" in runs.save_page(tmp_path / "page.html").read_text("utf-8")
    assert runs[:1][0].folder == runs[0].folder
    assert runs[1].encode(0).shape == (1, runs[1].config.latent_dim)


def test_a_run_of_other_people_is_not_executed(cli, runs):
    cli("trainer.max_epochs=1")
    (folder,) = runs()
    config = folder / ".hydra" / "config.yaml"
    text = config.read_text().replace("vae.model.priors.StandardNormal", "os.system")
    config.write_text(text)
    (run,) = vae.load_runs(folder)
    for call in (lambda: vae.load(folder), lambda: run.sample(), lambda: run.data):
        with pytest.raises(UserError, match=r"prior._target_=os.system: this class is not in conf/prior/"):
            call()
