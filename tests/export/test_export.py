"""python -m vae.export: ONNX compared with torch, and the use of an export without torch."""

import json
import subprocess
import sys

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.numpy import load_file

from vae.errors import UserError
from vae.export import __main__ as export
from vae.export import onnx_modules
from vae.model.likelihoods import ContinuousBernoulli
from vae.runs.run_folder import read_finished_run
from vae.training.build import build, load_trained
from vae.training.experiment import load_dataset

LADDER = [
    (1, 6, 5),
    "architecture=ladder",
    "architecture.encoder.channels=[4,4,4,4,4]",
    "architecture.encoder.groups=3",
]
SMALL = ["latent_dim=3", "hidden_size=8"]
ENCODERS = {
    "conv": [(3, 9, 7), "architecture=conv"],
    "mlp, point": [(1, 6, 5), "objective=autoencoder"],
    "gated_mlp, iaf": [(1, 6, 5), "architecture=gated_mlp", "posterior=iaf"],
    "ladder": LADDER,
}
DECODERS = {
    "conv, discretized_logistic": [(3, 9, 7), "architecture=conv", "likelihood=discretized_logistic"],
    "gated_mlp, pixel_gaussian": [(2, 6, 5), "architecture=gated_mlp", "likelihood=pixel_gaussian"],
    "mlp, shades": [(3, 6, 5), "likelihood=shades"],
    "mlp, categorical": [(1, 6, 5), "likelihood=categorical_17"],
    "mlp, continuous_bernoulli": [(1, 6, 5), "likelihood=continuous_bernoulli"],
    "mlp, gaussian": [(1, 6, 5), "likelihood=gaussian"],
    "conv, gaussian": [(3, 9, 7), "architecture=conv", "likelihood=gaussian", "likelihood.learned=false"],
    "mlp, grey_cross_entropy": [(1, 6, 5), "likelihood=grey_cross_entropy"],
    "ladder, bernoulli": LADDER,
}


@pytest.fixture
def model():
    """make(shape, *overrides) builds a model for images of a shape, with weights away from the initial ones."""
    from hydra import compose

    from vae.config.command_line import initialize_conf

    def make(shape, *overrides):
        with initialize_conf():
            cfg = compose("config", [*SMALL, *overrides])
        torch.manual_seed(0)
        vae = build(cfg, shape).vae.eval()
        with torch.no_grad():
            for parameter in vae.parameters():
                parameter.add_(0.03 * torch.randn_like(parameter))
        return vae

    return make


@pytest.fixture
def run_export(module_cli):
    return module_cli(export)


def outputs(file, **inputs):
    return onnxruntime.InferenceSession(file).run(None, inputs)


class SmallerVariance(torch.nn.Module):
    """Subtract 2 from the log-variances of 3 dimensions in the output of an encoder, (B, 6 or more)."""

    def forward(self, h):
        return h - 2 * torch.eye(h.shape[-1])[3:6].sum(0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ENCODERS)
def test_onnx_encoder_equals_torch(name, model, tmp_path):
    shape, *overrides = ENCODERS[name]
    vae, x = model(shape, *overrides), torch.rand(11, *shape)
    if "iaf" in name:
        vae.encoder = torch.nn.Sequential(vae.encoder, SmallerVariance())
        with torch.no_grad():
            for parameter in vae.posterior.parameters():
                parameter.mul_(8)  # a strong flow: its mean is not the flow of the mean
    names = ["mean"] if name.endswith(("iaf", "point", "ladder")) else ["mean", "log_var"]
    export.write_onnx(onnx_modules.Encoder(vae, 3), [x], ["x", *names], tmp_path / "e.onnx")
    mean, *log_var = outputs(tmp_path / "e.onnx", x=x[:5].numpy())
    assert len(names) == 1 + len(log_var)
    with torch.inference_mode():
        q_z = vae.q_z(x[:5])
        if "iaf" not in name:
            np.testing.assert_allclose(mean, q_z.mean, atol=1e-4, rtol=1e-4)
        if log_var:
            np.testing.assert_allclose(log_var[0], q_z.variance.log(), atol=1e-4, rtol=1e-4)
        if "iaf" in name:  # estimated from 256 samples
            samples = q_z.sample((40_000,))
            np.testing.assert_array_less((torch.tensor(mean) - samples.mean(0)).abs(), samples.std(0) / 8)


@pytest.mark.slow
@pytest.mark.parametrize("name", DECODERS)
def test_onnx_decoder_equals_torch(name, model, tmp_path):
    shape, *overrides = DECODERS[name]
    vae, z = model(shape, *overrides), 2 * torch.randn(11, 3)
    export.write_onnx(onnx_modules.Decoder(vae), [z], ["z", "picture", "h"], tmp_path / "d.onnx")
    picture, h = outputs(tmp_path / "d.onnx", z=z[:1].numpy())
    with torch.inference_mode():
        np.testing.assert_allclose(picture, vae.decode(z[:1]), atol=1e-4)
        np.testing.assert_allclose(h, vae.decoder(z[:1]), atol=1e-4, rtol=1e-4)
    assert picture.shape == (1, *shape)


@pytest.mark.slow
def test_a_ladder_with_labels_in_onnx_equals_torch(tmp_path):
    from conftest import compose_config

    shape, *overrides = LADDER
    torch.manual_seed(0)
    vae = build(compose_config(*SMALL, *overrides), shape, 4).vae.eval()
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.add_(0.03 * torch.randn_like(parameter))
    x, z, y = torch.rand(4, *shape), torch.randn(4, 3), torch.eye(4)
    export.write_onnx(onnx_modules.Encoder(vae, 3), [x, y], ["x", "y", "mean"], tmp_path / "e.onnx")
    export.write_onnx(onnx_modules.Decoder(vae), [z, y], ["z", "y", "picture", "h"], tmp_path / "d.onnx")
    (mean,) = outputs(tmp_path / "e.onnx", x=x[:3].numpy(), y=y[1:].numpy())
    picture, _ = outputs(tmp_path / "d.onnx", z=z[:3].numpy(), y=y[1:].numpy())
    with torch.inference_mode():
        np.testing.assert_allclose(mean, vae.given(y[1:]).q_z(x[:3]).mean, atol=1e-4, rtol=1e-4)
        np.testing.assert_allclose(picture, vae.given(y[1:]).decode(z[:3]), atol=1e-4)


AUTOREGRESSIVE = {
    "pixelcnn": [(1, 6, 5), "likelihood=pixelcnn"],
    "pixelcnn_logistic": [(2, 6, 5), "likelihood=pixelcnn_logistic"],
    "pixel_art": [(3, 9, 7), "likelihood=pixel_art", "architecture=conv"],
}


@pytest.mark.parametrize("name", AUTOREGRESSIVE)
@pytest.mark.slow
def test_onnx_pixel_parameters_equal_torch(name, model, tmp_path):
    shape, *overrides = AUTOREGRESSIVE[name]
    vae, x, z = model(shape, *overrides), torch.rand(11, *shape), torch.randn(11, 3)
    assert onnx_modules.Decoder(vae).autoregressive
    with torch.no_grad():
        h = vae.decoder(z)
    names = ["outputs", "colours", "log_scales"][: 3 if name == "pixel_art" else 1]
    net = onnx_modules.PixelParameters(vae.likelihood)
    export.write_onnx(net, (x, h), ["x", "h", *names], tmp_path / "p.onnx")
    found = outputs(tmp_path / "p.onnx", x=x[:4].numpy(), h=h[:4].numpy())
    with torch.inference_mode():
        expected = vae.likelihood.network_outputs(x[:4], h[:4])
        np.testing.assert_allclose(found[0], expected, atol=1e-4, rtol=1e-4)
    assert len(found) == len(names)


def test_mean_of_the_continuous_bernoulli():
    h = torch.linspace(-1, 1, 20_000)
    exact = 1 / (1 - torch.exp(-h.double())) - 1 / h.double()  # (Loaiza-Ganem & Cunningham 2019)
    np.testing.assert_allclose(ContinuousBernoulli()(h.view(1, 1, 1, -1)).mean.flatten(), exact, atol=1e-5)


WITHOUT_TORCH = """
import json, sys
import numpy as np, onnxruntime
from safetensors.numpy import load_file

export = json.load(open("export/export.json"))
decoder = onnxruntime.InferenceSession("export/" + export["decoder"]["file"])
(z,) = export["decoder"]["inputs"]
picture, h = decoder.run(list(export["decoder"]["outputs"]), {z: np.eye(export["latent_dim"], dtype=np.float32)})
assert load_file("export/" + export["weights"])
assert not {"torch", "pytorch_lightning", "hydra", "vae"} & set(sys.modules)
np.save("picture.npy", picture)
"""


@pytest.mark.slow
def test_export_is_usable_without_torch(cli, runs, run_export):
    cli()
    (folder,) = runs()
    code, out, err = run_export()  # the newest run is the only one
    assert (code, err, out.count("\n")) == (0, "", 4)
    run = read_finished_run(folder)
    data = load_dataset(run.config, folder)
    vae = load_trained(run.config, data.shape, folder).vae
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with torch.inference_mode():
        np.testing.assert_allclose(np.load(folder / "picture.npy"), vae.decode(torch.eye(3)), atol=1e-4)
        (mean, log_var), x = outputs(folder / "export/encoder.onnx", x=data.x("test").numpy()), data.x("test")
        np.testing.assert_allclose(mean, vae.q_z(x).mean, atol=1e-4)
        np.testing.assert_allclose(np.exp(log_var / 2), vae.q_z(x).stddev, rtol=1e-4)
    weights = load_file(folder / "export/weights.safetensors")
    assert weights.keys() == vae.state_dict().keys()
    for name, value in vae.state_dict().items():
        np.testing.assert_array_equal(weights[name], value)
    description = json.loads((folder / "export/export.json").read_text())
    assert description["shape"] == list(data.shape)
    assert description["latent_dim"] == 3
    assert (description["likelihood"], description["posterior"]) == ("bernoulli", "diagonal_gaussian")
    assert description["test"] == run.summary
    assert description["encoder"]["largest_difference_from_torch"] < 1e-4
    assert sorted(path.name for path in folder.iterdir() if path.name.startswith("export")) == ["export"]


class UnstableModule(torch.nn.Module):
    """A module that computes something else after it was traced."""

    def __init__(self, *_):
        super().__init__()
        self.eval()

    def forward(self, x):
        return (x + 0.001 * (not torch.compiler.is_exporting()),)


def test_difference_from_torch_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"ONNX and torch differ by 0.001"):
        export.write_onnx(UnstableModule(), [torch.zeros(4, 2)], ["x", "y"], tmp_path / "unstable")


@pytest.mark.slow
def test_failed_export_keeps_the_previous_one(cli, runs, run_export, monkeypatch):
    cli("trainer.max_epochs=1")
    (folder,) = runs()
    (folder / "export").mkdir()
    (folder / "export/encoder.onnx").write_text("before")
    monkeypatch.setattr(onnx_modules, "Decoder", UnstableModule)
    code, out, err = run_export(f"run={folder}")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "decoder" in err
    assert [path.name for path in (folder / "export").iterdir()] == ["encoder.onnx"]
    assert (folder / "export/encoder.onnx").read_text() == "before"
    assert not list(folder.glob("*.part"))


def test_posterior_without_a_mean_is_an_error(model):
    vae = model((1, 6, 5))

    class Other(torch.nn.Module):
        outputs = 6

        def forward(self, h):
            return torch.distributions.Independent(torch.distributions.Normal(h, 1.0), 1)

    vae.posterior = Other()
    with pytest.raises(UserError, match="posterior: Other cannot be exported"):
        onnx_modules.Encoder(vae, 3)


def test_user_error_is_one_line_and_exit_code_2(cli, runs, run_export, monkeypatch):
    def error_of(*arguments):
        code, out, err = run_export(*arguments)
        assert (code, out, err.count("\n")) == (2, "", 1)
        return err

    cli("trainer.max_epochs=1")
    (folder,) = runs()
    assert "no such key; did you mean run?" in error_of(f"runs={folder}")
    assert "run=nowhere" in error_of("run=nowhere")
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "onnxscript", None)
        assert "vae.export needs onnxscript: pip install onnx onnxruntime onnxscript safetensors" in error_of(
            f"run={folder}"
        )
    (folder / "checkpoints/best.ckpt").unlink()
    assert "best.ckpt" in error_of(f"run={folder}")
    assert "none in outputs/" in error_of()
