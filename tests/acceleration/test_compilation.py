"""Compiled steps and compiled draws against plain autograd."""

import os
import signal
import time
from pathlib import Path

import pytest
import torch
from config_choices import CHOICES
from hydra import compose, initialize_config_dir
from pytorch_lightning import Trainer
from run_outputs import read_metrics
from torch._inductor import config as inductor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.testing import assert_close

from vae.acceleration import compilation
from vae.acceleration.compilation import CompiledStep, split_graph, trace_step, trainable_parameters
from vae.config.schema import CONF, Config
from vae.evaluate.scores import compiled_draws
from vae.model.estimator import importance_sample, score_terms
from vae.training.build import build
from vae.training.callbacks.acceleration import CompileAtStart, CUDAGraphSteps, DelayedCompile, acceleration_callbacks
from vae.training.callbacks.graceful_shutdown import GracefulShutdown
from vae.training.lightning_module import VAEModule

pytestmark = pytest.mark.slow

SMALL_CONV = "architecture=conv architecture.encoder.channels=[3,4]"


@pytest.fixture
def build_module():
    """build_module("key=value ...") returns a small module with random weights, for images of shape (2, 8, 12)."""

    def build_module(line):
        small = ["hidden_size=9", "latent_dim=3", "batch_size=6"]
        with initialize_config_dir(str(CONF), version_base=None):
            cfg = compose("config", [*small, *line.split()])
        torch.manual_seed(0)
        module = build(cfg, (2, 8, 12))
        with torch.no_grad():
            for parameter in module.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
        module.trainer = Trainer(logger=False, barebones=True)
        return module

    return build_module


def images(seed):
    return torch.rand(6, 2, 8, 12, generator=torch.Generator().manual_seed(seed)).round()


def plain_step(module, x, weight, seed):
    """Return (sums, gradients), computed by autograd."""
    torch.manual_seed(seed)
    loss, sums = module(x, weight)
    module.zero_grad()
    loss.backward()
    return sums, [parameter.grad for parameter in module.parameters() if parameter.requires_grad]


@pytest.mark.parametrize("line", CHOICES)
def test_a_traced_step_is_valid_for_other_inputs(line, build_module, monkeypatch):
    """Images, weight, noise and parameters differ from those of the traced step: none of them became a constant."""
    monkeypatch.setattr(compilation, "DECOMPOSITIONS", {})
    module = build_module(line)
    graph = trace_step(module, images(1))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(0.9)
    expected, gradients = plain_step(module, images(2), 0.3, seed=3)
    torch.manual_seed(3)
    sums, *found = graph(images(2), torch.tensor(0.3), *trainable_parameters(module))
    assert_close(sums, expected, rtol=0, atol=0, equal_nan=True)
    assert [it is None for it in found] == [it is None for it in gradients]
    for one, other in zip(found, gradients, strict=True):
        if one is not None:
            assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize(
    "line", ["objective=iwae objective.K=3 posterior=iaf likelihood=discretized_logistic", SMALL_CONV]
)
def test_a_compiled_step_differs_by_rounding_only(line, build_module):
    module = build_module(line)
    before = torch.get_rng_state()
    step = CompiledStep(module, images(1))
    assert torch.equal(torch.get_rng_state(), before)
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for seed, weight in ((2, 0.3), (4, 1.0)):
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.mul_(0.9)
        expected, gradients = plain_step(module, images(seed), weight, seed)
        torch.manual_seed(seed)
        x = images(seed).to(memory_format=torch.channels_last)
        assert_close(step.forward_backward(x, weight), expected, rtol=1e-5, atol=1e-4)
        for parameter, gradient in zip(trainable, gradients, strict=True):
            assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-4, check_stride=True)


def test_the_faster_tanh_equals_torch_tanh_and_replaces_it(build_module):
    x = torch.cat([torch.linspace(-20, 20, 100_001), torch.tensor([-1e30, 1e30, -torch.inf, torch.inf])])
    assert_close(compilation.tanh(x), x.double().tanh().float(), rtol=0, atol=2e-7)
    operations = [str(node.target) for node in trace_step(build_module(""), images(1)).graph.nodes]
    assert operations.count("aten.sigmoid.default") >= 2
    assert "aten.tanh.default" not in operations


@torch.no_grad()
@pytest.mark.parametrize("line", [line for line in CHOICES if "autoencoder" not in line])
def test_a_split_graph_gives_the_same_draws(line, build_module):
    """The images differ from those that were traced. The first part draws no random numbers."""
    vae = build_module(line).vae
    with torch.random.fork_rng():
        first, rest = split_graph(make_fx(lambda x: [score_terms(vae.terms(x, 3))])(images(1)))
    for seed in (2, 3):
        before = torch.get_rng_state()
        inputs = first(images(seed))
        assert torch.equal(torch.get_rng_state(), before)
        torch.manual_seed(seed)
        (found,) = rest(*inputs)
        torch.manual_seed(seed)
        assert_close(found, score_terms(vae.terms(images(seed), 3)), rtol=0, atol=0)


@torch.no_grad()
def test_images_are_encoded_once_for_all_draws(build_module):
    vae = build_module("").vae
    parts = split_graph(make_fx(lambda x: [score_terms(vae.terms(x, 3))])(images(1)))
    matrix_products = [sum("mm" in str(node.target) for node in part.graph.nodes) for part in parts]
    assert matrix_products == [2, 2]  # the two layers of the encoder, and those of the decoder


@pytest.mark.parametrize("line", ["posterior=iaf", "prior=vampprior likelihood=discretized_logistic"])
def test_compiled_draws_differ_by_rounding_only(line, build_module):
    vae, before = build_module(line).vae, torch.get_rng_state()
    plain_draws, sample_terms = [], vae.sample_terms

    def spy(*arguments):
        plain_draws.append(arguments[-1])
        return sample_terms(*arguments)

    vae.sample_terms = spy
    with torch.inference_mode():
        draws_of_4 = compiled_draws(vae, images(1), 4)
        assert torch.equal(torch.get_rng_state(), before)
        channels_last = images(2).to(memory_format=torch.channels_last)
        for x, chunk, expected_plain_draws in (
            (channels_last, 4, [3]),  # the last, smaller chunk
            (images(3)[:5], 4, [4, 4, 3]),  # another batch size
            (images(2), 5, [5, 5, 1]),  # another chunk size
        ):
            torch.manual_seed(5)
            expected = importance_sample(vae, x, 11, chunk * x.numel())
            plain_draws.clear()
            torch.manual_seed(5)
            assert_close(importance_sample(vae, x, 11, chunk * x.numel(), draws_of_4), expected, rtol=1e-5, atol=1e-3)
            assert plain_draws == expected_plain_draws


@pytest.fixture
def calls(monkeypatch):
    """A list of ("compiled", global step, batch size) and ("called", batch size) for all compiled steps."""
    calls = []

    class Spy(CompiledStep):
        def __init__(self, module, x):
            super().__init__(module, x)
            calls.append(("compiled", module.trainer.global_step, len(x)))

        def forward_backward(self, x, weight):
            calls.append(("called", len(x)))
            return super().forward_backward(x, weight)

    monkeypatch.setattr("vae.training.callbacks.acceleration.CompiledStep", Spy)
    return calls


SHORT_LAST = "dataset.val_size=67"  # 233 training images = 11 x 20 + 13


def test_the_compiled_step_takes_all_full_batches(cli, calls):
    assert cli("compile=true", SHORT_LAST)[0] == 0
    assert calls == [("compiled", 0, 20)] + [("called", 20)] * 22


@pytest.mark.parametrize(("steps", "expected"), [(12, [("compiled", 12, 20)] + [("called", 20)] * 11), (13, [])])
def test_a_long_training_is_compiled_after_the_first_epoch(steps, expected, cli, calls, monkeypatch):
    """There are two epochs of 12 steps."""
    monkeypatch.setattr("vae.training.callbacks.acceleration.MIN_STEPS", steps)
    assert cli(SHORT_LAST)[0] == 0
    assert calls == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", [DelayedCompile]),
        ("compile=true", [CompileAtStart]),
        ("compile=false", []),
        ("~compile", []),  # runs of older versions lack the key
        ("trainer=gpu", [CUDAGraphSteps]),
        ("trainer=gpu compile=true", [CompileAtStart, CUDAGraphSteps]),
        ("trainer=ddp", []),
        ("+trainer.precision=bf16-mixed", []),
    ],
)
def test_acceleration_callbacks_follow_the_config(line, expected, monkeypatch):
    for module in ("accelerator", "cuda"):
        monkeypatch.setattr(f"torch.{module}.is_available", lambda: True)
    with initialize_config_dir(str(CONF), version_base=None):
        cfg = compose("config", line.split())
    assert list(map(type, acceleration_callbacks(cfg, GracefulShutdown(Path())))) == expected


def test_images_per_second_excludes_compilation(cli, runs, monkeypatch):
    """Compilation seems to take a thousand seconds."""
    delays, perf_counter = [], time.perf_counter

    class Slow(CompiledStep):
        def __init__(self, module, x):
            super().__init__(module, x)
            delays.append(1000)

    monkeypatch.setattr("vae.training.callbacks.acceleration.MIN_STEPS", 1)
    monkeypatch.setattr("vae.training.callbacks.acceleration.CompiledStep", Slow)
    monkeypatch.setattr(time, "perf_counter", lambda: perf_counter() + sum(delays))
    assert cli()[0] == 0
    rows = read_metrics(runs()[0])
    assert min(row["images_per_second"] for row in rows if "images_per_second" in row) > 5
    assert rows[-1]["seconds"] > 1000


def test_training_continues_if_compilation_fails(cli, calls, runs, monkeypatch):
    monkeypatch.setattr("vae.training.callbacks.acceleration.MIN_STEPS", 1)
    assert cli("compile=false")[0] == 0
    with inductor.patch("cpp.cxx", ("no-such-compiler",)):
        code, out, _ = cli()
    plain, other = ((folder / "summary.json").read_text() for folder in runs())
    assert (code, other, calls) == (0, plain, [])
    (line,) = [line for line in out.splitlines() if "compile" in line]
    assert line.startswith("compile=auto: no C++ compiler was found; expected g++")
    assert line.endswith("; continuing without compilation")


def test_every_choice_is_tested():
    for group in ("objective", "prior", "posterior", "likelihood", "architecture"):
        assert group in Config.model_fields
        for path in (CONF / group).glob("*.yaml"):
            exempt = path.stem in (
                "auto",
                "elbo",
                "diagonal_gaussian",
                "mlp",
                "m2",
            )  # m2, with labels: test_conditional
            assert exempt or any(f"{group}={path.stem}" in line.split() for line in CHOICES)


def test_compile_true_without_support_is_a_one_line_error(cli):
    code, _, err = cli("compile=true", "trainer=ddp")
    assert (code, err.count("\n")) == (2, 1)
    assert "compile=true: expected training in one process, not trainer.devices=2" in err
    code, _, err = cli("compile=true", "+trainer.precision=bf16-mixed")
    assert (code, err.count("\n")) == (2, 1)
    assert "trainer.precision=bf16-mixed: expected 32-true with compile=true or cuda_graph=true" in err
    with inductor.patch("cpp.cxx", ("no-such-compiler",)):
        code, _, err = cli("compile=true")
    assert (code, err.count("\n")) == (2, 1)
    assert "compile=true: no C++ compiler was found; expected g++" in err


def test_a_compiler_that_fails_is_a_one_line_error(cli, monkeypatch, tmp_path):
    compiler = tmp_path / "compiler"
    compiler.write_text(
        "#!/bin/sh\ntest $# = 1 || { echo 'a.cpp:3: fatal error: Python.h: No such file' >&2; exit 1; }\n"
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "empty"))
    with inductor.patch("cpp.cxx", (str(compiler),)):
        code, _, err = cli("compile=true")
    assert (code, err.splitlines()[-1]) == (2, "compile=true: a.cpp:3: fatal error: Python.h: No such file")
    assert "Traceback" not in err


@pytest.mark.parametrize(("value", "expected"), [("true", 2), ("auto", 0)])
def test_code_that_cannot_be_traced_is_a_one_line_message(value, expected, cli, monkeypatch):
    monkeypatch.setattr("vae.training.callbacks.acceleration.MIN_STEPS", 1)
    code, out, err = cli(f"compile={value}", "objective._target_=fakes.ItemELBO")
    assert code == expected
    (line,) = [line for line in (out + err).splitlines() if f"compile={value}" in line]
    assert "data-dependent" in line
    assert "Traceback" not in err


@pytest.mark.parametrize("when", ["during", "before"])
def test_ctrl_c_during_compilation_stops_immediately(when, cli, monkeypatch):
    """The checkpoint is that of the first epoch, of 12 steps."""

    class Stopped(CompiledStep):
        def __init__(self, *_):
            assert when == "during"
            os.kill(os.getpid(), signal.SIGINT)
            raise AssertionError("compilation continued")

    monkeypatch.setattr("vae.training.callbacks.acceleration.MIN_STEPS", 1)
    monkeypatch.setattr("vae.training.callbacks.acceleration.CompiledStep", Stopped)
    if when == "before":
        monkeypatch.setattr(VAEModule, "on_validation_end", lambda _module: os.kill(os.getpid(), signal.SIGINT))
    code, out, _ = cli()
    (checkpoint,) = Path("outputs").rglob("last.ckpt")
    assert code == 130
    assert f"resume={checkpoint.parent.parent.resolve()}" in out.splitlines()[-1]
    assert torch.load(checkpoint, weights_only=True)["global_step"] == 12
