"""Keras 3 on JAX: a subclass of keras.Model that uses add_loss, and fit()."""

import os

os.environ["KERAS_BACKEND"] = "jax"

import common
import keras
import numpy as np
from keras import layers, ops
from keras.random import SeedGenerator


class Binarise(layers.Layer):
    """Set each pixel to 1 with the probability of its grey level; training only."""

    def __init__(self) -> None:
        super().__init__()
        self.seed = SeedGenerator()

    def call(self, x: keras.KerasTensor, training: bool = False) -> keras.KerasTensor:
        return ops.cast(keras.random.uniform(ops.shape(x), seed=self.seed) < x, x.dtype) if training else x


class Sample(layers.Layer):
    """Draw z, given its mean and log-variance."""

    def __init__(self) -> None:
        super().__init__()
        self.seed = SeedGenerator()

    def call(self, mean: keras.KerasTensor, log_var: keras.KerasTensor) -> keras.KerasTensor:
        return mean + ops.exp(log_var / 2) * keras.random.normal(ops.shape(mean), seed=self.seed)


class VAE(keras.Model):
    """VAE whose loss is minus the ELBO."""

    def __init__(self) -> None:
        super().__init__()
        self.binarise, self.sample = Binarise(), Sample()
        self.encoder = keras.Sequential([layers.Dense(common.HIDDEN, "tanh"), layers.Dense(2 * common.LATENT_DIM)])
        self.decoder = keras.Sequential([layers.Dense(common.HIDDEN, "tanh"), layers.Dense(common.PIXELS)])

    def call(self, x: keras.KerasTensor, training: bool = False) -> keras.KerasTensor:
        x = self.binarise(x, training=training)
        mean, log_var = ops.split(self.encoder(x), 2, -1)
        logits = self.decoder(self.sample(mean, log_var))
        log_px_z = -ops.sum(ops.binary_crossentropy(x, logits, from_logits=True), -1)
        kl = ops.sum(ops.square(mean) + ops.exp(log_var) - 1 - log_var, -1) / 2
        self.add_loss(ops.mean(kl - log_px_z))
        return logits


keras.utils.set_random_seed(0)
vae = VAE()
vae.compile(keras.optimizers.Adam(common.LR))
vae.fit(
    common.train() / np.float32(255),
    batch_size=common.BATCH,
    epochs=common.EPOCHS,
    verbose=0,
    callbacks=[
        keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: common.report_epoch(epoch + 1, -logs["val_loss"])
        )
    ],
    validation_data=(common.val(),),
)
common.report_test(-vae.evaluate(common.test(), batch_size=common.BATCH, verbose=0))
