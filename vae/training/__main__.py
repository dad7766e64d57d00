"""python -m vae.training is python train.py."""

import sys

from vae.training.command import cli

sys.exit(cli())
