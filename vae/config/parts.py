"""Allowed values of the groups that create classes, such as prior. Ranges belong to the class that has the key."""

from typing import Annotated, Literal

from pydantic import Field

from vae.config.section import (
    BelowOne,
    Channels,
    Fraction,
    HiddenSize,
    NonNegativeFloat,
    Part,
    PositiveFloat,
    PositiveInt,
    Section,
    Switch,
    UnitInterval,
)


class Schedule(Section):
    pass


class Linear(Schedule, target="vae.training.schedules.Linear"):
    warmup: Fraction


class Cyclical(Schedule, target="vae.training.schedules.Cyclical"):
    cycles: PositiveInt
    warmup: Fraction


class OneCycle(Schedule, target="vae.training.schedules.OneCycle"):
    warmup: Fraction


class BurdaSchedule(Schedule, target="vae.training.schedules.BurdaSchedule"):
    stages: Annotated[int, Field(ge=2, le=16, description="a whole number, 2 to 16")]


class Objective(Part):
    K: PositiveInt
    schedule: Schedule = Schedule()


class Beta(Objective, target="vae.model.objectives.Beta"):
    beta: NonNegativeFloat


class Capacity(Objective, target="vae.model.objectives.Capacity"):
    gamma: NonNegativeFloat
    capacity: NonNegativeFloat


class FreeBits(Objective, target="vae.model.objectives.FreeBits"):
    free_bits: NonNegativeFloat


class M2(Objective, target="vae.model.semi_supervised.M2"):
    alpha: NonNegativeFloat
    labelled: PositiveInt


class BetaTC(Objective, target="vae.model.aggregate_posterior.BetaTC"):
    beta: NonNegativeFloat


class Info(Objective, target="vae.model.aggregate_posterior.Info"):
    alpha: UnitInterval
    lambda_: Annotated[float, Field(ge=1, allow_inf_nan=False, description="a number of 1 or more")]


class DIP(Objective, target="vae.model.aggregate_posterior.DIP"):
    lambda_od: NonNegativeFloat
    lambda_d: NonNegativeFloat


class Posterior(Part):
    latent_dim: PositiveInt


class IAF(Posterior, target="vae.model.posteriors.IAF"):
    steps: PositiveInt
    hidden_size: PositiveInt
    context: PositiveInt


class Ladder(Posterior, target="vae.model.ladder.Ladder"):
    features: PositiveInt


class Prior(Part):
    latent_dim: PositiveInt


class Mixture(Prior, target="vae.model.priors.Mixture"):
    components: PositiveInt


class VampPrior(Prior, target="vae.model.priors.VampPrior"):
    pseudo_inputs: PositiveInt
    mean: UnitInterval


class Flow(Prior, target="vae.model.priors.Flow"):
    steps: PositiveInt
    hidden_size: HiddenSize


class TwoLayers(Prior, target="vae.model.priors.TwoLayers"):
    top_dim: PositiveInt
    hidden_size: HiddenSize


class Noise(Section):
    pass


class GaussianNoise(Noise, target="vae.model.noise.Gaussian"):
    sigma: NonNegativeFloat


class Masking(Noise, target="vae.model.noise.Masking"):
    p: BelowOne


class Likelihood(Section):
    pass


class Gaussian(Likelihood, target="vae.model.likelihoods.Gaussian"):
    sigma: Annotated[float, Field(ge=0.003, description="a number of 0.003 or more")]
    learned: Switch


class DiscretizedLogistic(Likelihood, target="vae.model.likelihoods.DiscretizedLogistic"):
    scale: Literal["pixel", "shared"]


class Categorical(Likelihood, target="vae.model.likelihoods.Categorical"):
    levels: Annotated[int, Field(ge=2, le=256, description="a whole number, 2 to 256")]


class Shades(Likelihood, target="vae.model.likelihoods.Shades"):
    K: PositiveInt
    max_scale: PositiveFloat
    background: UnitInterval


class PixelCNN(Likelihood, target="vae.model.autoregressive.PixelCNN"):
    h_channels: PositiveInt
    radius: PositiveInt
    width: PositiveInt
    dilations: list[PositiveInt] = Field(description="a list of whole numbers, 1 or more, such as [1,2]")
    context_swap: BelowOne
    temperature: NonNegativeFloat


class PixelCNNLogistic(PixelCNN, target="vae.model.autoregressive.PixelCNNLogistic"):
    K: PositiveInt


class PixelArt(PixelCNN, target="vae.model.pixel_art.PixelArt"):
    latent_dim: PositiveInt
    palette: PositiveInt
    background: UnitInterval


class Encoder(Part):
    pass


class ConvEncoder(Encoder, target="vae.model.networks.ConvEncoder"):
    channels: Channels


class LadderEncoder(ConvEncoder, target="vae.model.ladder.LadderEncoder"):
    groups: PositiveInt


class Decoder(Part):
    pass


class ConvDecoder(Decoder, target="vae.model.networks.ConvDecoder"):
    channels: Channels


class LadderDecoder(ConvDecoder, target="vae.model.ladder.LadderDecoder"):
    groups: PositiveInt


class Architecture(Section):
    encoder: Encoder
    decoder: Decoder
    classifier: Encoder = Encoder.model_construct()  # of objective=m2; by default, another encoder


class Optimizer(Section):
    lr: PositiveFloat
    weight_decay: NonNegativeFloat = 0.0
    eps: PositiveFloat = 1.0
    schedule: Schedule


class TorchOptimizer(Optimizer):
    capturable: Switch = False
    differentiable: Switch = False
    foreach: bool | None = Field(None, description="true, false or null")
    fused: bool | None = Field(None, description="true, false or null")
    maximize: Switch = False


class Adam(TorchOptimizer, target="torch.optim.Adam"):
    betas: list[BelowOne] = Field(
        [0.9, 0.999], min_length=2, max_length=2, description="two numbers of 0 or more, below 1, such as [0.9,0.999]"
    )
    amsgrad: Switch = False


class AdamW(Adam, target="torch.optim.AdamW"):
    weight_decay: NonNegativeFloat = 0.01


class Adadelta(TorchOptimizer, target="torch.optim.Adadelta"):
    rho: UnitInterval


class Adagrad(TorchOptimizer, target="torch.optim.Adagrad"):
    lr_decay: NonNegativeFloat = 0.0
    initial_accumulator_value: NonNegativeFloat = 0.0


class RMSprop(TorchOptimizer, target="torch.optim.RMSprop"):
    alpha: BelowOne
    momentum: NonNegativeFloat = 0.0
    centered: Switch = False


class SGD(TorchOptimizer, target="torch.optim.SGD"):
    momentum: NonNegativeFloat = 0.0
    dampening: NonNegativeFloat = 0.0
    nesterov: Switch = False
