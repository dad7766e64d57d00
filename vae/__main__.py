"""Train, compare and explore variational autoencoders: vae COMMAND [key=value ...].

  vae train        train a model, or several in a sweep with -m         vae train dataset=digits latent_dim=2
  vae evaluate     a tighter estimate of log p(x) of a run              vae evaluate run=FOLDER K=5000
  vae compare      runs and sweeps in a table and on one page           vae compare outputs
  vae generate     samples, reconstructions, traversals, fusions        vae generate 'what=[samples,walk]'
  vae latent       a map of the latents, clusters, outliers             vae latent map=umap
  vae explore      a page in the browser                                vae explore
  vae export       ONNX and safetensors                                 vae export
  vae sync         upload offline runs to Weights & Biases              vae sync outputs
  vae dashboard    a workspace for the runs in Weights & Biases         vae dashboard project=vae

Runs are written to outputs/. Without run=, the newest run is used; evaluate needs run=. vae COMMAND --help describes a
command and its keys. From Python: import vae; run = vae.load().
"""

import runpy
import sys

from vae import __version__

COMMANDS = ("train", "evaluate", "compare", "generate", "latent", "explore", "export", "sync", "dashboard")


def main() -> int:
    """Run a command; return the exit code."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(__doc__, end="")
        return 0
    if name == "--version":
        print(f"vae {__version__}")
        return 0
    if name not in COMMANDS:
        from vae.errors import did_you_mean

        allowed = ", ".join(COMMANDS)
        print(f"vae {name}: expected one of {allowed}{did_you_mean(name, COMMANDS)}", file=sys.stderr)
        return 2
    sys.argv = [f"vae {name}", *arguments]
    package = "vae.training" if name == "train" else f"vae.{name}"
    runpy.run_module(package, run_name="__main__")  # it ends with sys.exit
    return 0


if __name__ == "__main__":
    sys.exit(main())
