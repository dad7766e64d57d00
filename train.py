"""Train a VAE: python train.py [key=value ...]. See python train.py --help."""

import sys

from vae.training.command import cli

if __name__ == "__main__":
    sys.exit(cli())
