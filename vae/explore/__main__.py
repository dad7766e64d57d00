"""Explore a finished run in the browser: python -m vae.explore [run=outputs/...] [map=umap].

Without run=, the newest finished run in outputs/ is used. The page shows a map of the latents. Drag a point over the
map to decode its latent, move single latent dimensions, fuse two images, or encode an uploaded picture or a drawn
digit. Ctrl-C stops the server.

  map=pca          the first two principal components: the point moves the latent along these two directions
  map=umap         a map that keeps neighbours close: the latent of the point is a weighted mean of the nearest dots
  host=127.0.0.1   the address to listen at; only this machine can open the page by default
  port=8765        the port; port=0 finds a free one
  browser=true     false only prints the address
  dataset.path=    where the images of the run are now, if they have moved
"""

import os
import socket
import sys
import webbrowser
from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, Field

from vae.api.run import load
from vae.config.command_line import parse_arguments, run_command
from vae.errors import UserError
from vae.latent.probes import import_umap

LOCALHOST = ("127.0.0.1", "localhost")


class Arguments(BaseModel, strict=True, extra="forbid"):
    run: str = Field("", description="the folder of a finished run")
    trust: bool = False
    config_dir: str = ""
    data_path: str = Field("", alias="dataset.path", description="where the images of the run are now")
    host: str = Field(LOCALHOST[0], min_length=1, description="an address of this machine; 0.0.0.0 is every address")
    port: int = Field(8765, ge=0, le=65535, description="a whole number, 0 (any free port) to 65535")
    browser: bool = Field(True, description="true or false")
    map: Literal["pca", "umap"] = "pca"


def open_socket(host: str, port: int) -> socket.socket:
    """Listen at an address, without Nagle's delay of small responses. Raises UserError if the address is taken."""
    try:
        server = socket.create_server((host, port))
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        expected = "expected an address of this machine and a free port; port=0 finds one"
        raise UserError(f"host={host} port={port}: {reason}; {expected}") from None
    server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return server


def main(typed: Sequence[str]) -> None:
    given = parse_arguments(Arguments, typed)
    run = load(given.run, given.trust, given.config_dir, given.data_path)
    cfg = run.config
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise UserError(f"vae.explore needs {error.name}: pip install starlette uvicorn") from None
    by_umap = given.map == "umap" and cfg.latent_dim > 2
    if by_umap:
        import_umap()  # fail early if it is missing
    with open_socket(given.host, given.port) as open_port:
        import torch

        from vae.explore.explorer import Explorer
        from vae.explore.server import Server, build_app

        torch.set_num_threads(1)  # a single code is decoded fastest by one thread
        run.about_images.check_pictures()
        title = f"{run.choices['dataset']}, latent_dim={cfg.latent_dim}"
        explorer = Explorer(run.folder.resolve().name, title, run.model, bool(run.module.has_elbo), by_umap)
        print("encoding images ...", file=sys.stderr)
        _ = explorer.about  # computed before the page opens
        server = Server(build_app(explorer, [given.host, *LOCALHOST]))
        address = f"http://{given.host}:{open_port.getsockname()[1]}"
        print(f"{address}   Ctrl-C stops it", flush=True)
        if given.browser:
            webbrowser.open(address)
        server.run([open_port])


def cli() -> int:
    return run_command(main, __doc__, "stopped")


if __name__ == "__main__":
    sys.exit(cli())
