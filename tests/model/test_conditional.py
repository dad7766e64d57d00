"""Conditional models against exact models for each label, and against unconditional models with the label folded in."""

import pytest
import torch
from conftest import compose_config
from fakes import PRIORS
from linear_gaussian import LABELS, NOISE, SHAPE, D, linear_gaussian_of_labels
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal
from torch.testing import assert_close

from datamodules.labels import one_hot
from vae.acceleration.compilation import CompiledStep, trace_step, trainable_parameters
from vae.errors import UserError
from vae.evaluate.scores import cached_scores
from vae.model.estimator import anomaly_score, importance_sample
from vae.model.posteriors import DiagonalNormal
from vae.model.priors import Mixture, VampPrior
from vae.model.sampling import sample_prior
from vae.training.build import build


def test_every_importance_weight_is_the_exact_log_px_of_the_label(tmp_path):
    """The posterior is exact, so each weight is p(x|y); with 250 images there are three batches."""
    vae, x, y, exact = linear_gaussian_of_labels(250)
    tolerance = {"atol": 1e-3, "rtol": 0}
    with torch.inference_mode():
        assert_close(vae.given(y).terms(x, 3).log_w, exact.expand(3, -1), **tolerance)
        assert_close(importance_sample(vae.given(y), x, 7, max_pixels=2 * x.numel()).log_px, exact, **tolerance)
        assert_close(-anomaly_score(vae, x, "log_px", 4, y), exact, **tolerance)
        squared = (x.flatten(1) - vae.given(y).p_x(vae.given(y).q_z(x).mean).mean.flatten(1)).square().sum(1)
        assert_close(anomaly_score(vae, x, "reconstruction", 1, y), squared)
        file = tmp_path / "scores.npz"
        assert_close(cached_scores(vae, x, 120, 4, 0, file, "source", False, y).log_px, exact[:120], **tolerance)
        assert_close(cached_scores(vae, x, 250, 4, 0, file, "source", False, y).log_px, exact, **tolerance)


@pytest.mark.slow
def test_compiled_draws_take_the_labels_of_each_batch(tmp_path):
    torch.manual_seed(0)
    vae = build(compose_config("hidden_size=9", "latent_dim=3"), (1, 4, 4), LABELS).vae
    with torch.no_grad():
        vae.decoder.decoder.net[0].weight[:, -LABELS:] *= 20
    x, y = torch.rand(250, 1, 4, 4).round(), one_hot(torch.randint(LABELS, (250,)), LABELS)
    compiled, plain, other = (
        cached_scores(vae, x, 250, 5, 0, tmp_path / f"{name}.npz", "source", name == "compiled", labels).log_px
        for name, labels in (("compiled", y), ("plain", y), ("other", y.roll(1, 1)))
    )
    assert_close(compiled, plain, atol=1e-3, rtol=1e-5)
    assert (compiled - other).abs().median() > 0.1


def test_a_given_model_shares_its_parameters_and_leaves_the_model_alone():
    vae, x, y, _ = linear_gaussian_of_labels(6)
    given = vae.given(y)
    assert [id(p) for p in given.parameters()] == [id(p) for p in vae.parameters()]
    assert vae.y == ()
    with pytest.raises(TypeError):
        vae.q_z(x)
    given.terms(x).log_px_z.sum().backward()
    columns = vae.decoder.decoder.weight.grad[:, D:]  # the gradient of b_y is that of the mean of x
    z = given.q_z(x).mean.detach()
    assert (columns != 0).all()
    only_first = vae.given(one_hot(torch.zeros(6, dtype=torch.long), LABELS))
    vae.zero_grad()
    only_first.p_x(z).log_prob(x).sum().backward()
    residual = (x - only_first.p_x(z).mean).flatten(1).sum(0) / NOISE**2
    assert_close(vae.decoder.decoder.weight.grad[:, D:], torch.stack([residual, 0 * residual, 0 * residual], 1))


LINES = [
    "",
    *(f"prior={name}" for name in PRIORS if name not in ("standard_normal", "vampprior")),
    *(f"posterior={name}" for name in ("iaf", "point")),
    *(f"likelihood={name}" for name in ("gaussian", "discretized_logistic", "pixelcnn", "pixel_art")),
    *(f"objective={name}" for name in ("beta", "capacity", "free_bits", "iwae", "dreg")),
    "architecture=gated_mlp",
]


def fold_label(conditional, plain, label):
    """Set the weights of an unconditional model so that it equals a conditional one for a label.

    A layer that has the one-hot label among its inputs gets the column of the label as a bias. The encoder sees it as
    the channel that is embedded.
    """
    source = conditional.vae.state_dict()
    channel = source.pop("encoder.embedding.weight")[:, label]
    one = one_hot(torch.tensor(label), LABELS)
    target, biases = plain.vae.state_dict(), {}
    for name, value in source.items():
        name = name.replace("coder.encoder.", "coder.").replace("coder.decoder.", "coder.", 1)
        name = name if name in target else f"decoder.{name.removeprefix('decoder.')}"
        if value.shape == target[name].shape:
            target[name].copy_(value)
        elif name in ("prior.logits", "prior.mean", "prior.log_var"):  # one row for each label
            target[name].copy_(value[label])
        else:
            n = target[name].shape[1]
            target[name].copy_(value[:, :n])
            biases[name.replace("weight", "bias")] = value[:, n:] @ (channel if name.startswith("encoder") else one)
    for name, bias in biases.items():
        target[name] += bias


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("label", [0, 2])
def test_the_model_of_a_label_is_an_unconditional_one_with_this_label_folded_in(line, label):
    shape = (3, 4, 5)
    small = ["hidden_size=6", "latent_dim=3", "posterior.hidden_size=8"] if "iaf" in line else ["latent_dim=3"]
    objective = ["objective=autoencoder"] if "point" in line else []
    cfg = compose_config(*line.split(), *small, *objective, "hidden_size=6")
    torch.manual_seed(0)
    conditional, plain = build(cfg, shape, LABELS), build(cfg, shape)
    with torch.no_grad():
        for parameter in conditional.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
        fold_label(conditional, plain, label)
    x = torch.rand(5, *shape).round()
    y = one_hot(torch.full((5,), label), LABELS)
    found, expected = [], []
    for module, labels, values in ((conditional, [y], found), (plain, [], expected)):
        torch.manual_seed(1)
        module.eval()
        metrics = module.compute_metrics(x, 0.5, *labels)
        metrics[-1].sum().backward()
        bias = next(parameter for name, parameter in module.vae.decoder.named_parameters() if "bias" in name)
        torch.manual_seed(2)
        codes = sample_prior(module.vae.given(*labels).p_z(), 5, 0.8)
        values += [metrics, bias.grad, 0 if "mixture" in line else codes]  # a mixture has other random numbers
    assert_close(found, expected, atol=2e-4, rtol=2e-4)
    other = conditional.compute_metrics(x, 0.5, y.roll(1, 1))
    assert not torch.allclose(other[-1], found[0][-1], atol=0.1)


@pytest.mark.parametrize("line", ["architecture=conv", "architecture=conv likelihood=shades prior=vampprior"])
def test_the_label_reaches_convolutions_and_without_its_weights_changes_nothing(line):
    cfg = compose_config(*line.split(), "latent_dim=3", "hidden_size=6", "architecture.encoder.channels=[4,6]")
    torch.manual_seed(0)
    module = build(cfg, (3, 8, 7), LABELS)
    x, y = torch.rand(4, 3, 8, 7).round(), one_hot(torch.tensor([0, 1, 2, 1]), LABELS)

    def metrics(y):
        torch.manual_seed(1)
        return module.compute_metrics(x, 1.0, y)

    with torch.no_grad():
        module.vae.encoder.embedding.weight.normal_()
        assert (metrics(y) != metrics(y.roll(1, 1)))[-1].all()
        module.vae.encoder.embedding.weight.zero_()
        q = module.vae.given(y).q_z(x)
        assert_close(q.mean, module.vae.given(y.roll(1, 1)).q_z(x).mean)
        assert_close(q.mean, module.vae.encoder.encoder(torch.cat([x, torch.zeros(4, 1, 8, 7)], 1))[:, :3])


def components(mixture, k):
    return Independent(Normal(mixture.means[k], mixture.log_scales[k].exp()), 1)


def test_mixture_has_the_weights_of_each_label():
    torch.manual_seed(0)
    prior = Mixture(4, SHAPE, 5, LABELS)
    with torch.no_grad():
        prior.logits.normal_(std=2)
        prior.log_scales.normal_()
    y = one_hot(torch.tensor([2, 0, 1, 2]), LABELS)
    p_z, z = prior(None, y), torch.randn(3, 4, 4)
    assert p_z.batch_shape == (4,)
    for i, label in enumerate([2, 0, 1, 2]):
        expected = MixtureSameFamily(Categorical(logits=prior.logits[label]), components(prior, torch.arange(5)))
        assert_close(p_z.log_prob(z)[:, i], expected.log_prob(z[:, i]))


def test_vampprior_is_the_mean_over_the_pseudo_inputs_of_the_label():
    torch.manual_seed(0)
    prior = VampPrior(2, (1, 1, 2), 7, 0.5, LABELS)
    with torch.no_grad():
        prior.u.uniform_()

    def q(x, y):
        return DiagonalNormal(x.flatten(1) + y[:, :2], -2 + y[:, 1:])

    y, z = one_hot(torch.tensor([0, 1, 2]), LABELS), torch.randn(5, 3, 2)
    found = prior(q, y).log_prob(z)
    for label, members in enumerate([[0, 3, 6], [1, 4], [2, 5]]):
        labels = y[label].expand(len(members), -1)
        parts = q(prior.u[members], labels)
        weights = Categorical(torch.full((len(members),), 1 / len(members)))
        expected = MixtureSameFamily(weights, Independent(Normal(parts.mean, parts.stddev), 1))
        assert_close(found[:, label], expected.log_prob(z[:, label]))
    found.sum().backward()
    assert prior.u.grad.isfinite().all()


@pytest.mark.parametrize("name", [name for name in PRIORS if name != "two_layers"])  # its log_prob is an estimate
def test_one_sample_for_each_label_with_the_moments_of_its_prior(name):
    """The means of samples are those of importance sampling from a wide Gaussian."""
    torch.manual_seed(0)
    module = build(compose_config(f"prior={name}", "latent_dim=2", "hidden_size=6"), (1, 3, 4), LABELS)
    prior = module.vae.prior
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter += {"flow": 0.06, "vampprior": 0.0}.get(name, 0.4) * torch.randn_like(parameter)
    n = 20_000
    wide = Independent(Normal(torch.zeros(2), 3 * torch.ones(2)), 1)
    for label in range(LABELS):
        y = one_hot(torch.full((n,), label), LABELS)
        with torch.no_grad():
            p_z = module.vae.given(y).p_z()
            z = sample_prior(p_z, n, 1.0)
            assert z.shape == (n, 2)
            proposal = wide.sample((n,))
            weight = (p_z.log_prob(proposal) - wide.log_prob(proposal)).exp()
        assert_close(weight.mean().item(), 1.0, atol=0.06, rtol=0)
        assert_close(z.mean(0), (weight[:, None] * proposal).mean(0), atol=0.12, rtol=0)


def test_a_vampprior_with_fewer_pseudo_inputs_than_labels_is_refused():
    with pytest.raises(UserError, match="expected 3 or more, one for each label"):
        VampPrior(2, SHAPE, 2, 0.5, LABELS)


CONV = "architecture=conv architecture.encoder.channels=[4,4]"
LADDER = "architecture=ladder architecture.encoder.channels=[4,4,4,4] architecture.encoder.groups=2"


def labelled_step(line):
    """Return a model for a step, images, their labels, and other labels; objective=m2 does not know some of these."""
    from pytorch_lightning import Trainer

    torch.manual_seed(0)
    module = build(compose_config("hidden_size=9", "latent_dim=4", *line.split()), (1, 8, 8), LABELS)
    module.trainer = Trainer(logger=False, barebones=True)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    unknown = -1 if "m2" in line else 0
    y, other = (
        one_hot(torch.tensor(labels), LABELS) for labels in ([0, 1, 2, 0, 1, 2], [2, unknown, 1, 1, unknown, 0])
    )
    return module, torch.rand(6, 1, 8, 8).round(), y, other


def plain_step(module, x, y):
    """Return the sums and the gradients of a step, computed by autograd."""
    torch.manual_seed(5)
    loss, sums = module(x, torch.tensor(0.7), y)
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return sums, torch.autograd.grad(loss, trainable, allow_unused=True)


@pytest.mark.parametrize(
    "line",
    [
        *("", f"{CONV} prior=flow", "prior=vampprior objective=dreg"),
        *(f"{LADDER} objective={objective}" for objective in ("elbo", "free_bits", "m2")),
    ],
)
def test_a_traced_step_takes_the_labels_of_each_batch(line):
    module, x, y, other = labelled_step(line)
    graph = trace_step(module, x, y)
    expected, gradients = plain_step(module, x, other)
    torch.manual_seed(5)
    sums, *found = graph(x, torch.tensor(0.7), other, *trainable_parameters(module))
    assert_close(sums, expected, rtol=1e-5, atol=1e-4)
    assert_close(found, list(gradients), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_compiled_step_takes_the_labels_of_each_batch():
    module, x, y, other = labelled_step("objective=m2")
    step = CompiledStep(module, x, y)
    for labels in (y, other):
        expected, gradients = plain_step(module, x, labels)
        torch.manual_seed(5)
        assert_close(step.forward_backward(x, 0.7, labels), expected, rtol=1e-4, atol=1e-3)
        assert_close([p.grad for p in step.parameters], list(gradients), rtol=1e-4, atol=1e-4)
