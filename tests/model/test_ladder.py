"""The ladder of latents, against the same model written in z instead of eps, and against numerical integration."""

import math

import pytest
import torch
from torch.distributions import Bernoulli as BernoulliPixels
from torch.distributions import Independent, Normal, kl_divergence

from datamodules.labels import one_hot
from vae.errors import UserError
from vae.model.estimator import importance_sample
from vae.model.ladder import Ladder, LadderDecoder, LadderEncoder
from vae.model.likelihoods import Bernoulli
from vae.model.networks import ConditionalDecoder, ConditionalEncoder
from vae.model.objectives import FreeBits
from vae.model.posteriors import soft_clamp
from vae.model.priors import DiagonalGaussian, StandardNormal
from vae.model.vae import VAE

LABELS = 3
Y = one_hot(torch.tensor([0, 2, 1, 2, 0]), LABELS).double()  # of the five images


def ladder(shape=(1, 7, 7), latent_dim=10, channels=(4, 6, 6), groups=2, noise=0.4, labels=0):
    """Return a small model with random weights, given the labels Y if it has labels, and five images.

    By default, its groups are 1 x 1 and 2 x 2, with 2 channels each.
    """
    torch.manual_seed(0)
    posterior = Ladder(latent_dim, 3, "silu")
    likelihood = Bernoulli()
    likelihood.build(shape[0])
    seen = (shape[0] + bool(labels), *shape[1:])
    encoder = LadderEncoder(seen, posterior.outputs, channels, groups, "silu")
    decoder = LadderDecoder(shape, shape[0], latent_dim + labels, channels, groups, "silu", labels)
    posterior.build(decoder)
    if labels:
        encoder = posterior.wrap_encoder(ConditionalEncoder(encoder, labels, shape))
        decoder = ConditionalDecoder(decoder)
    vae = VAE(encoder, posterior, decoder, likelihood, StandardNormal(latent_dim, shape)).double()
    for parameter in vae.parameters():
        parameter.data += noise * torch.randn_like(parameter)
    return vae.given(*([Y] if labels else [])), torch.rand(5, *shape).round().double()


def top_down_network(vae):
    """Return the decoder without its wrapper for labels."""
    return vae.posterior.decoder[0]


def gaussian(parameters):
    """Return means and standard deviations, (N, channels * h * w)."""
    mean, log_var = parameters.chunk(2, 1)
    return mean.flatten(1), (soft_clamp(log_var) / 2).exp().flatten(1)


def test_the_shapes_of_groups_and_of_pictures():
    vae, x = ladder()  # 7 x 7: feature maps 4 x 4, 2 x 2 and 1 x 1
    assert vae.decoder.group_shapes == [(2, 1, 1), (2, 2, 2)]
    terms = vae.terms(x, 3)
    assert terms.z.shape == (3, 5, 10)
    assert terms.log_w.shape == (3, 5)
    assert terms.kl.shape == (5,)
    assert vae.q_z(x).mean.shape == (5, 10)
    assert vae.decode(torch.randn(2, 4, 10).double()).shape == (2, 4, 1, 7, 7)


def hierarchy(vae, x, eps):
    """Yield p(z_l | z_<l), q(z_l | z_<l, x) and z_l for each group of latents eps, (5, D), then p(x|z), without eps.

    In z_l = mu_l + sigma_l eps_l, both are Gaussians with other parameters. A label adds a map of its own to the
    features before the first group.
    """
    decoder = top_down_network(vae)
    d = decoder.start.expand(5, -1, -1, -1)
    if vae.y:
        d = d + torch.stack([decoder.embedding.weight[:, label].view_as(d[0]) for label in Y.argmax(1)])
    features, position = vae.encoder(x, *vae.y), 0
    for i, group in enumerate(decoder.groups):
        d = decoder.ups[i - 1](d) if i else d
        d = group.before(d)
        mean, sigma = gaussian(group.p(d))
        height, width = d.shape[2:]
        own = features[:, 3 * position : 3 * (position + height * width)].unflatten(1, (3, height, width))
        m, s = gaussian(vae.posterior.q[i](torch.cat([d, own], 1)))
        z = mean + sigma * eps[:, 2 * position : 2 * (position + height * width)]
        yield Independent(Normal(mean, sigma), 1), Independent(Normal(mean + sigma * m, sigma * s), 1), z
        d = group.after(d + group.inject(z.unflatten(1, (2, height, width))))
        position += height * width
    for up in decoder.ups[len(decoder.groups) - 1 :]:
        d = up(d)
    yield Independent(BernoulliPixels(logits=d), 3)


@pytest.mark.parametrize("labels", [0, LABELS])
def test_the_densities_are_those_of_the_hierarchy_of_z(labels):
    vae, x = ladder(labels=labels)
    terms = vae.terms(x)
    *groups, p_x = hierarchy(vae, x, terms.z[0])
    expected = sum(p.log_prob(z) - q.log_prob(z) for p, q, z in groups)
    torch.testing.assert_close(terms.log_pz[0] - terms.log_qz_x[0], expected)
    torch.testing.assert_close(terms.log_px_z[0], p_x.log_prob(x))
    torch.testing.assert_close(terms.kl, sum(kl_divergence(q, p) for p, q, _ in groups))


@pytest.mark.parametrize("nats", [0.0, 0.2, 100.0])
def test_free_bits_clamp_the_kl_of_each_group(nats):
    """The groups have 2 and 8 units. With 0.2 nats per unit, only the KL of the second is above its free bits."""
    vae, x = ladder(noise=0.25)
    terms = vae.terms(x, 2)
    by_sample = [list(hierarchy(vae, x, eps))[:-1] for eps in terms.z]
    kls = [sum(kl_divergence(q, p).mean() for p, q, _ in groups) / 2 for groups in zip(*by_sample, strict=True)]
    above = [kl > n * nats for kl, n in zip(kls, (2, 8), strict=True)]
    assert above == {0.0: [True, True], 0.2: [False, True], 100.0: [False, False]}[nats]
    kl = sum(kl if is_above else n * nats for kl, n, is_above in zip(kls, (2, 8), above, strict=True))
    value = FreeBits(2, nats)(terms, 0.0)
    torch.testing.assert_close(value, terms.log_likelihood - kl)
    parameters = [*vae.encoder.parameters(), *vae.posterior.parameters(), *top_down_network(vae).parameters()]
    found, expected = (
        torch.autograd.grad(total, parameters, retain_graph=True)
        for total in (value.mean(), terms.log_likelihood.mean() - kl)
    )
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("nats", [0.0, 2.0, 100.0])
def test_free_bits_of_groups_always_fit_a_learned_prior(nats):
    """The prior of eps_l is N(a, b^2), so that of z_l is N(mu_l + sigma_l a, (sigma_l b)^2)."""
    vae, x = ladder(noise=0.25)
    vae.prior = DiagonalGaussian(10, x.shape[1:]).double()
    for parameter in vae.prior.parameters():
        torch.nn.init.normal_(parameter)
    learned = list(vae.prior.parameters())
    terms, (a, b) = vae.terms(x), gaussian(torch.cat(learned)[None])
    parts = [part.split([2, 8], 1) for part in (a, b)]
    kls = []
    for (p, q, _), a, b in zip(hierarchy(vae, x, terms.z[0]), *parts, strict=False):
        prior = Independent(Normal(p.mean + p.stddev * a, p.stddev * b), 1)
        kls.append(kl_divergence(q, prior))
    torch.testing.assert_close(terms.kl, sum(kls))
    value = FreeBits(1, nats)(terms, 0.0)
    kl = sum(max(n * nats, kl.mean().item()) for n, kl in zip((2, 8), kls, strict=True))
    torch.testing.assert_close(value, terms.log_likelihood - kl)
    fitted = torch.autograd.grad(value.mean(), learned, retain_graph=True)
    torch.testing.assert_close(fitted, torch.autograd.grad(-sum(kls).mean(), learned))


def test_log_q_of_any_latents_is_that_of_the_sample():
    vae, x = ladder(labels=LABELS)
    q = vae.q_z(x)
    z = q.rsample((4,))
    torch.testing.assert_close(q.log_prob(z.clone()), q.log_prob(z))
    torch.testing.assert_close(q.log_prob(z[2].clone()), q.log_prob(z)[2])


def test_the_kl_is_the_mean_of_log_q_minus_log_p():
    vae, x = ladder()
    with torch.no_grad():
        terms = vae.terms(x, 20_000)
        difference = terms.log_qz_x - terms.log_pz
    se = difference.std(0) / math.sqrt(20_000)
    assert ((difference.mean(0) - terms.kl).abs() < 5 * se).all()
    assert terms.kl.min() > 0.5
    assert kl_divergence(vae.q_z(x), vae.p_z()).shape == (5,)  # without a sample of its own


@pytest.mark.parametrize("labels", [0, LABELS])
def test_log_px_is_that_of_numerical_integration(labels):
    vae, x = ladder(shape=(1, 2, 2), latent_dim=2, channels=(4, 4), groups=2, labels=labels)  # two groups of one latent
    grid = torch.linspace(-6, 6, 121).double()
    z = torch.cartesian_prod(grid, grid)
    with torch.no_grad():
        log_joint = vae.p_x(z[:, None].expand(-1, 5, -1)).log_prob(x) + vae.p_z().log_prob(z)[:, None]
        exact = log_joint.logsumexp(0) + 2 * math.log(12 / 120)
        estimate = importance_sample(vae, x, 30_000).log_px
    torch.testing.assert_close(estimate, exact, atol=0.02, rtol=0, check_dtype=False)


def test_a_group_depends_on_those_above_it_only():
    vae, x = ladder()
    means = []
    for change in (0.0, 1.0):
        q, seen = vae.q_z(x), []

        def keep(i, gaussian, seen=seen, change=change):
            seen.append(gaussian.mean)
            return torch.full_like(gaussian.mean, change * (i == 0))

        q._walk(1, keep)
        means.append(seen)
    torch.testing.assert_close(means[0][0], means[1][0])
    assert (means[0][1] - means[1][1]).abs().max() > 1e-3


def test_a_label_changes_q_and_p():
    """Also if the encoder sees the same image for all labels: then q depends on the label by the features of p."""
    vae, x = ladder(labels=LABELS)
    z = torch.randn(5, 10).double()
    embedding, channel = top_down_network(vae).embedding.weight, vae.encoder.encoder.embedding.weight
    other = vae.given(Y.roll(1, 1))

    def differences():
        pairs = (vae.p_x(z).mean, other.p_x(z).mean), (vae.q_z(x).mean, other.q_z(x).mean)
        return [(a - b).abs().amax(list(range(1, a.dim()))).min().item() for a, b in pairs]

    with torch.no_grad():
        assert min(differences()) > 1e-3
        learned = channel.clone()
        channel.zero_()
        assert min(differences()) > 1e-3
        embedding.zero_()
        assert differences() == [0, 0]
        channel.copy_(learned)
        assert [difference > 1e-3 for difference in differences()] == [False, True]


@pytest.mark.parametrize("labels", [0, LABELS])
def test_every_parameter_has_a_gradient(labels):
    vae, x = ladder(labels=labels)
    (-vae.terms(x).elbo.mean()).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in vae.parameters())


@pytest.mark.parametrize("labels", [0, LABELS])
def test_before_training_q_is_the_prior(labels):
    vae, x = ladder(noise=0.0, labels=labels)
    assert vae.terms(x).kl.tolist() == [0.0] * 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latent_dim": 12}, "latent_dim=12: expected a multiple of 5"),
        ({"groups": 4}, "architecture.encoder.groups=4: expected at most 3"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        ladder(**options)
