"""JAX: each epoch is one jitted scan."""

from functools import partial

import common
import jax
import jax.numpy as jnp
import optax

Parameters = list[tuple[jax.Array, jax.Array]]


def dense(key: jax.Array, n_in: int, n_out: int) -> tuple[jax.Array, jax.Array]:
    """Initialise the weights and biases of a layer as PyTorch does."""
    bound = n_in**-0.5
    weights, biases = jax.random.split(key)
    uniform = partial(jax.random.uniform, minval=-bound, maxval=bound)
    return uniform(weights, (n_in, n_out)), uniform(biases, (n_out,))


def elbo(parameters: Parameters, x: jax.Array, key: jax.Array) -> jax.Array:
    """Return the ELBO of each image, (B,), for x (B, 784)."""
    (a, b), (c, d), (e, f), (g, h) = parameters
    mean, log_var = jnp.split(jnp.tanh(x @ a + b) @ c + d, 2, -1)
    z = mean + jnp.exp(log_var / 2) * jax.random.normal(key, mean.shape)
    log_px_z = -optax.sigmoid_binary_cross_entropy(jnp.tanh(z @ e + f) @ g + h, x).sum(-1)
    kl = (mean**2 + jnp.exp(log_var) - 1 - log_var).sum(-1) / 2
    return log_px_z - kl


def loss(parameters: Parameters, x: jax.Array, key: jax.Array) -> jax.Array:
    return -elbo(parameters, x, key).mean()


@jax.jit
def mean_elbo(parameters: Parameters, x: jax.Array) -> jax.Array:
    return elbo(parameters, x, jax.random.key(1)).mean()


optimizer = optax.adam(common.LR)


@partial(jax.jit, donate_argnums=(0, 1))
def train(parameters: Parameters, state: optax.OptState, pixels: jax.Array, key: jax.Array):
    def step(carry, batch):
        parameters, state = carry
        rows, key = batch
        binarize_key, z_key = jax.random.split(key)
        x = (jax.random.uniform(binarize_key, (common.BATCH, common.PIXELS)) < pixels[rows] / 255).astype(jnp.float32)
        updates, state = optimizer.update(jax.grad(loss)(parameters, x, z_key), state)
        return (optax.apply_updates(parameters, updates), state), None

    shuffle_key, step_key = jax.random.split(key)
    order = jax.random.permutation(shuffle_key, len(pixels)).reshape(-1, common.BATCH)
    return jax.lax.scan(step, (parameters, state), (order, jax.random.split(step_key, len(order))))[0]


pixels, val, test = jnp.asarray(common.train()), jnp.asarray(common.val()), jnp.asarray(common.test())
sizes = [
    (common.PIXELS, common.HIDDEN),
    (common.HIDDEN, 2 * common.LATENT_DIM),
    (common.LATENT_DIM, common.HIDDEN),
    (common.HIDDEN, common.PIXELS),
]
parameters = [dense(key, *size) for key, size in zip(jax.random.split(jax.random.key(0), 4), sizes, strict=True)]
state = optimizer.init(parameters)
for epoch in range(common.EPOCHS):
    parameters, state = train(parameters, state, pixels, jax.random.key(epoch))
    common.report_epoch(epoch + 1, float(mean_elbo(parameters, val)))
common.report_test(float(mean_elbo(parameters, test)))
