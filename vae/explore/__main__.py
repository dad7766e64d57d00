"""Explore a finished run in the browser: python -m vae.explore [run=outputs/...], of the newest run unless said.

Opens a page of this machine alone (host=127.0.0.1, port=8765, or the free one that port=0 finds; browser=false only
prints its address) on which to drag a point over a map of the codes and see it decoded, move each latent dimension,
fuse two images, and see what the model makes of a picture dropped in or a digit drawn. Ctrl-C ends it.

The map is of the first two principal components, which the point moves along; or, with map=umap, of what is near to
what, and the point has the mean code of the dots around it, the nearer the more.
"""

import os
import socket
import sys
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field

from vae.config.command_line import arguments, command
from vae.errors import UserError
from vae.latent.probes import import_umap
from vae.runs.run_folder import finished, newest, read

HOME = ("127.0.0.1", "localhost")


class Arguments(BaseModel, strict=True, extra="forbid"):
    run: str = Field("", description="the folder of a finished run")
    host: str = Field(HOME[0], min_length=1, description="an address of this machine; 0.0.0.0 is all, for anybody")
    port: int = Field(8765, ge=0, le=65535, description="a whole number, 0 (any that is free) to 65535")
    browser: bool = Field(True, description="true or false")
    map: Literal["pca", "umap"] = "pca"


def listening(host: str, port: int) -> socket.socket:
    """A socket that is this process's, and keeps no answer back to join it with the next; UserError if it is taken."""
    try:
        found = socket.create_server((host, port))
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        expected = "expected an address of this machine and a free port, such as port=0 finds"
        raise UserError(f"host={host} port={port}: {reason}; {expected}") from None
    found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return found


def main(typed: Sequence[str]) -> None:
    given = arguments(Arguments, typed)
    folder = Path(given.run) if given.run else newest(Path("outputs"))
    cfg, _ = finished(folder)
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise UserError(f"vae.explore needs {error.name}: pip install -e '.[explore]'") from None
    by_umap = given.map == "umap" and cfg.latent_dim > 2
    if by_umap:
        import_umap()  # fail early if it is missing
    with listening(given.host, given.port) as taken:
        import torch

        from vae.explore.explorer import Explorer
        from vae.explore.server import Server, app
        from vae.generate.session import Session
        from vae.training.experiment import load, load_trained

        torch.set_num_threads(1)  # one code is decoded sooner by one; what takes long has a thread of its own
        data = load(cfg)
        module = load_trained(cfg, data.shape, folder)
        title = f"{read(folder).choices['dataset']}, latent_dim={cfg.latent_dim}"
        explorer = Explorer(folder.resolve().name, title, Session(module.vae, data), bool(module.bounds), by_umap)
        print("encoding images ...", file=sys.stderr)
        _ = explorer.about  # so that the page opens at once
        server = Server(app(explorer, [given.host, *HOME]))
        address = f"http://{given.host}:{taken.getsockname()[1]}"
        print(f"{address}   Ctrl-C ends it", flush=True)
        if given.browser:
            webbrowser.open(address)
        server.run([taken])


def cli() -> int:
    return command(main, __doc__, "ended")


if __name__ == "__main__":
    sys.exit(cli())
