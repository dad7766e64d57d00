"""Compiled steps against those that autograd takes by itself."""

import csv
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from handmade import PRIORS
from hydra import compose, initialize_config_dir
from pytorch_lightning import Trainer
from torch._inductor import config as inductor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.testing import assert_close

from vae import compiled
from vae.callbacks import CapturedSteps, CleanStop, CompiledLater, CompiledSteps
from vae.compiled import Compiled, learned, parted, recorded
from vae.config import CONF, Config
from vae.estimator import compiled_draws, importance_sample, scored
from vae.experiment import build, compiled_or_captured
from vae.module import VAEModule

CHOICES = [
    "",
    *(f"objective={name}" for name in ("beta", "capacity", "free_bits", "free_bits_4", "iwae", "dreg")),
    "objective=beta objective/schedule=cyclical",
    "objective=autoencoder posterior=point",
    *(f"prior={name}" for name in PRIORS),
    "posterior=iaf",
    "prior=flow objective=dreg objective.K=3",
    *(f"likelihood={path.stem}" for path in (CONF / "likelihood").glob("*.yaml")),
    "likelihood=gaussian likelihood.learned=true",
    "architecture=conv likelihood=shades",
    "architecture=gated_mlp activation=gelu",
]


@pytest.fixture
def built():
    """built("key=value ...") -> a small module with random weights, of images (2, 8, 12)."""

    def build_it(line):
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

    return build_it


def images(seed):
    return torch.rand(6, 2, 8, 12, generator=torch.Generator().manual_seed(seed)).round()


def alone(module, x, weight, seed):
    """(sums, gradients) by autograd."""
    torch.manual_seed(seed)
    loss, sums = module(x, weight)
    module.zero_grad()
    loss.backward()
    return sums, [parameter.grad for parameter in module.parameters() if parameter.requires_grad]


@pytest.mark.parametrize("line", CHOICES)
def test_what_is_recorded_of_one_step_is_true_of_others(line, built, monkeypatch):
    """Other images, another weight, other noise, other parameters: nothing of the recorded step has stayed in it."""
    monkeypatch.setattr(compiled, "INSTEAD", {})
    module = built(line)
    graph = recorded(module, images(1))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(0.9)
    expected, gradients = alone(module, images(2), 0.3, seed=3)
    torch.manual_seed(3)
    sums, *found = graph(images(2), torch.tensor(0.3), *learned(module))
    assert_close(sums, expected, rtol=0, atol=0, equal_nan=True)
    assert [it is None for it in found] == [it is None for it in gradients]
    for one, other in zip(found, gradients, strict=True):
        if one is not None:
            assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize(
    "line",
    [
        "objective=beta prior=vampprior likelihood=discretized_logistic",
        "objective=iwae objective.K=3 posterior=iaf",
        "architecture=conv architecture.encoder.channels=[3,4] architecture.decoder.channels=[3,4]",
    ],
)
def test_the_function_differs_by_rounding_alone(line, built):
    module = built(line)
    before = torch.get_rng_state()
    function = Compiled(module, images(1))
    assert torch.equal(torch.get_rng_state(), before)
    learned_ones = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for seed, weight in ((2, 0.3), (4, 1.0)):
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.mul_(0.9)
        expected, gradients = alone(module, images(seed), weight, seed)
        torch.manual_seed(seed)
        x = images(seed).to(memory_format=torch.channels_last)
        assert_close(function.differentiate(x, weight), expected, rtol=1e-5, atol=1e-4)
        for parameter, gradient in zip(learned_ones, gradients, strict=True):
            assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-4, check_stride=True)


def test_the_quicker_tanh_is_torch_s_and_in_its_place(built):
    x = torch.cat([torch.linspace(-20, 20, 100_001), torch.tensor([-1e30, 1e30, -torch.inf, torch.inf])])
    assert_close(compiled.tanh(x), x.double().tanh().float(), rtol=0, atol=2e-7)
    operations = [str(node.target) for node in recorded(built(""), images(1)).graph.nodes]
    assert operations.count("aten.sigmoid.default") >= 2
    assert "aten.tanh.default" not in operations


@torch.no_grad()
@pytest.mark.parametrize("line", [line for line in CHOICES if "autoencoder" not in line])
def test_draws_are_the_same_whether_in_one_part_or_two(line, built):
    """Of other images than the recorded ones, whose part draws nothing."""
    vae = built(line).vae
    with torch.random.fork_rng():
        first, rest = parted(make_fx(lambda x: [scored(vae.terms(x, 3))])(images(1)))
    for seed in (2, 3):
        before = torch.get_rng_state()
        known = first(images(seed))
        assert torch.equal(torch.get_rng_state(), before)
        torch.manual_seed(seed)
        (found,) = rest(*known)
        torch.manual_seed(seed)
        assert_close(found, scored(vae.terms(images(seed), 3)), rtol=0, atol=0)


@torch.no_grad()
def test_images_are_encoded_once_for_all_draws(built):
    vae = built("").vae
    parts = parted(make_fx(lambda x: [scored(vae.terms(x, 3))])(images(1)))
    products = [sum("mm" in str(node.target) for node in part.graph.nodes) for part in parts]
    assert products == [2, 2]


@pytest.mark.parametrize(
    "line", ["posterior=iaf", "prior=vampprior likelihood=discretized_logistic", "architecture=conv"]
)
def test_compiled_draws_differ_by_rounding_alone(line, built):
    vae, before = built(line).vae, torch.get_rng_state()
    drawn, of_known = [], vae.drawn
    vae.drawn = lambda *known: drawn.append(known[-1]) or of_known(*known)
    with torch.inference_mode():
        four = compiled_draws(vae, images(1), 4)
        assert torch.equal(torch.get_rng_state(), before)
        laid_out_otherwise = images(2).to(memory_format=torch.channels_last)
        for x, chunk, by_hand in (
            (laid_out_otherwise, 4, [3]),  # the last chunk
            (images(3)[:5], 4, [4, 4, 3]),
            (images(2), 5, [5, 5, 1]),
        ):
            torch.manual_seed(5)
            expected = importance_sample(vae, x, 11, chunk * x.numel())
            drawn.clear()
            torch.manual_seed(5)
            assert_close(importance_sample(vae, x, 11, chunk * x.numel(), four), expected, rtol=1e-5, atol=1e-3)
            assert drawn == by_hand


@pytest.fixture
def calls(monkeypatch):
    """What compiled steps were made, after how many steps, and used, for how many images."""
    calls = []

    class Counted(Compiled):
        def __init__(self, module, x):
            super().__init__(module, x)
            calls.append(("made", module.trainer.global_step, len(x)))

        def differentiate(self, x, weight):
            calls.append(("used", len(x)))
            return super().differentiate(x, weight)

    monkeypatch.setattr("vae.callbacks.Compiled", Counted)
    return calls


SHORT_LAST = "dataset.val_size=67"  # leaves 233 = 11 x 20 + 13 images


def test_whole_batches_are_given_to_one_function(cli, calls):
    assert cli("compile=true", SHORT_LAST)[0] == 0
    assert calls == [("made", 0, 20)] + [("used", 20)] * 22


@pytest.mark.parametrize(("steps", "expected"), [(12, [("made", 12, 20)] + [("used", 20)] * 11), (13, [])])
def test_a_training_that_gains_by_it_is_compiled_after_an_epoch(steps, expected, cli, calls, monkeypatch):
    """Of two epochs of 12 steps."""
    monkeypatch.setattr("vae.callbacks.STEPS", steps)
    assert cli(SHORT_LAST)[0] == 0
    assert calls == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", [CompiledLater]),
        ("compile=true", [CompiledSteps]),
        ("compile=false", []),
        ("~compile", []),  # as in runs of older versions
        ("trainer=gpu", [CapturedSteps]),
        ("trainer=gpu compile=true", [CompiledSteps, CapturedSteps]),
        ("trainer=ddp", []),
        ("+trainer.precision=bf16-mixed", []),
    ],
)
def test_only_steps_that_can_be_are_compiled_unasked(line, expected, monkeypatch):
    for there in ("accelerator", "cuda"):
        monkeypatch.setattr(f"torch.{there}.is_available", lambda: True)
    with initialize_config_dir(str(CONF), version_base=None):
        cfg = compose("config", line.split())
    assert list(map(type, compiled_or_captured(cfg, CleanStop(Path())))) == expected


def test_the_speed_is_that_of_steps_alone(cli, runs, monkeypatch):
    """A compilation of a thousand seconds is none of them."""
    passed, perf_counter = [], time.perf_counter

    class Slow(Compiled):
        def __init__(self, module, x):
            super().__init__(module, x)
            passed.append(1000)

    monkeypatch.setattr("vae.callbacks.STEPS", 1)
    monkeypatch.setattr("vae.callbacks.Compiled", Slow)
    monkeypatch.setattr(time, "perf_counter", lambda: perf_counter() + sum(passed))
    assert cli()[0] == 0
    with (runs()[0] / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    speeds = [float(row["images_per_second"]) for row in rows if row["images_per_second"]]
    assert min(speeds) > 5
    assert float(rows[-1]["seconds"]) > 1000


def test_where_nothing_can_be_compiled_the_training_goes_on(cli, calls, runs, monkeypatch):
    monkeypatch.setattr("vae.callbacks.STEPS", 1)
    assert cli("compile=false")[0] == 0
    with inductor.patch("cpp.cxx", ("no-such-compiler",)):
        code, out, _ = cli()
    plain, other = ((folder / "summary.json").read_text() for folder in runs())
    assert (code, other, calls) == (0, plain, [])
    (line,) = [line for line in out.splitlines() if "compile" in line]
    assert line.startswith("compile=auto: no C++ compiler was found; expected g++")
    assert line.endswith("; it goes on without")


def test_all_choices_are_among_those_recorded():
    for group in ("objective", "prior", "posterior", "likelihood", "architecture"):
        assert group in Config.model_fields
        for path in (CONF / group).glob("*.yaml"):
            default = path.stem in ("elbo", "diagonal_gaussian", "mlp")
            assert default or any(f"{group}={path.stem}" in line.split() for line in CHOICES)


def test_where_nothing_can_be_compiled_is_one_line(cli):
    code, _, err = cli("compile=true", "trainer=ddp")
    assert (code, err.count("\n")) == (2, 1)
    assert "compile=true: expected a training in one process, and trainer.devices is 2" in err
    code, _, err = cli("compile=true", "+trainer.precision=bf16-mixed")
    assert (code, err.count("\n")) == (2, 1)
    assert "trainer.precision=bf16-mixed: expected 32-true with compile=true or cuda_graph=true" in err
    with inductor.patch("cpp.cxx", ("no-such-compiler",)):
        code, _, err = cli("compile=true")
    assert (code, err.count("\n")) == (2, 1)
    assert "compile=true: no C++ compiler was found; expected g++" in err


def test_a_compiler_that_fails_is_one_line(cli, monkeypatch, tmp_path):
    fails = tmp_path / "fails"
    fails.write_text("#!/bin/sh\ntest $# = 1 || { echo 'a.cpp:3: fatal error: Python.h: No such file' >&2; exit 1; }\n")
    fails.chmod(0o755)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "nothing"))
    with inductor.patch("cpp.cxx", (str(fails),)):
        code, _, err = cli("compile=true")
    assert (code, err.splitlines()[-1]) == (2, "compile=true: a.cpp:3: fatal error: Python.h: No such file")
    assert "Traceback" not in err


@pytest.mark.parametrize(("how", "expected"), [("true", 2), ("auto", 0)])
def test_a_part_that_no_list_of_operations_can_hold_is_one_line(how, expected, cli, monkeypatch):
    monkeypatch.setattr("vae.callbacks.STEPS", 1)
    code, out, err = cli(f"compile={how}", "objective._target_=handmade.Looks")
    assert code == expected
    (line,) = [line for line in (out + err).splitlines() if f"compile={how}" in line]
    assert "data-dependent" in line
    assert "Traceback" not in err


@pytest.mark.parametrize("when", ["while", "before"])
def test_ctrl_c_while_a_step_is_compiled_stops_at_once(when, cli, monkeypatch):
    """With the checkpoint of the first epoch, of 12 steps."""

    class Stopped(Compiled):
        def __init__(self, *_):
            assert when == "while"
            os.kill(os.getpid(), signal.SIGINT)
            raise AssertionError("it went on")

    monkeypatch.setattr("vae.callbacks.STEPS", 1)
    monkeypatch.setattr("vae.callbacks.Compiled", Stopped)
    if when == "before":
        monkeypatch.setattr(VAEModule, "on_validation_end", lambda _module: os.kill(os.getpid(), signal.SIGINT))
    code, out, _ = cli()
    (checkpoint,) = Path("outputs").rglob("last.ckpt")
    assert code == 130
    assert f"resume={checkpoint.parent.parent.resolve()}" in out.splitlines()[-1]
    assert torch.load(checkpoint, weights_only=True)["global_step"] == 12
