"""Command lines that choose every objective, prior, posterior, likelihood and architecture at least once."""

from fakes import PRIORS

from vae.config.schema import CONF

CHOICES = [
    "",
    *(
        f"objective={name}"
        for name in ("beta", "capacity", "free_bits", "free_bits_4", "iwae", "dreg", "beta_tc", "info", "dip")
    ),
    "objective=beta objective/schedule=cyclical",
    "objective=autoencoder posterior=point",
    *(f"prior={name}" for name in PRIORS),
    "posterior=iaf",
    "prior=flow objective=dreg objective.K=3",
    *(f"likelihood={path.stem}" for path in (CONF / "likelihood").glob("*.yaml") if path.stem != "auto"),
    "likelihood=gaussian likelihood.learned=true",
    "architecture=conv likelihood=shades",
    "architecture=gated_mlp activation=gelu",
    "architecture=ladder posterior=ladder architecture.encoder.channels=[4,4,4,4,4,4,4] architecture.encoder.groups=3",
]
