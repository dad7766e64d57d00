"""Replace resume=FOLDER and sweep=FOLDER by arguments that are stored in the folder. Nothing here imports torch."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from vae.config.config_dirs import SEARCH_PATH, config_dirs
from vae.config.older_versions import current_override
from vae.config.overrides import PLACE_KEYS, quote_path
from vae.config.resumed_run import CHANGEABLE, is_changeable
from vae.config.stored_config import PLACE, check_config, check_links, check_overrides, read_config, read_sweep
from vae.errors import UserError
from vae.terminal import show


def sweep_arguments(argv: Sequence[str]) -> list[str]:
    """Replace sweep=FOLDER by the arguments of that sweep, which are stored in its sweep.json.

    Next to sweep=FOLDER, only these arguments may be repeated; hydra.* keys and the places that are written to may be
    changed. Stored places are not used, unless they are repeated. A search (search=NAME) is a sweep too: -m is added.
    Raises UserError for other arguments, or if FOLDER is not a sweep.
    """
    folders = [arg.removeprefix("sweep=") for arg in argv if arg.startswith("sweep=")]
    trust = bool(folders) and "trust=true" in argv
    others = [arg for arg in argv if not arg.startswith("sweep=") and arg not in ("-m", "--multirun")]
    others = [arg for arg in others if not (trust and arg == "trust=true")]
    if not folders:
        search = {arg.partition("=")[2] for arg in others if arg.startswith("search=")} - {"", "null"}
        return [*(["-m"] if search or len(others) < len(argv) else []), *others]
    folder = Path(folders[-1])
    try:
        stored = read_sweep(folder)
    except FileNotFoundError:
        raise UserError(f"sweep={folder}: expected the folder of a sweep; it has no sweep.json") from None
    arguments = list(map(current_override, [*stored.hydra, *stored.task]))
    if not trust:
        places = [argument for argument in arguments if argument not in others and PLACE.search(argument)]
        for place in places:
            show(f"{place} is not used, because a folder does not decide what is written to; repeat it to use it")
        arguments = [argument for argument in arguments if argument not in places]
        stored_only = [argument for argument in arguments if argument not in others]
        check_overrides(stored_only, f"sweep={folder}", config_dirs(others))
        check_links(folder, f"sweep={folder}")
    new = [arg for arg in others if arg not in arguments]
    if changed := [arg for arg in new if not arg.startswith("hydra") and arg.partition("=")[0] not in PLACE_KEYS]:
        task = shlex.join(stored.task)
        allowed = f"its stored arguments ({task}), hydra keys, {', '.join(PLACE_KEYS)}"
        raise UserError(f"sweep={folder}: expected only {allowed}; got {changed[0]}")
    quoted = quote_path(folder.resolve())
    replaced = {"hydra.mode", "hydra.sweep.dir", *(arg.partition("=")[0] for arg in new)}
    kept = [arg for arg in arguments if arg.lstrip("+~").partition("=")[0] not in replaced]
    return ["-m", *kept, *new, f"hydra.sweep.dir={quoted}"]


def resume_arguments(argv: list[str]) -> list[str]:
    """Replace resume=FOLDER by arguments that write to the folder of that run, whose config train.py then reads.

    Returns `argv` unchanged without resume=. Raises UserError for other arguments, if FOLDER is not a run, or, without
    trust=true, if it could run code that is not part of this installation or write outside of its folder. In the
    arguments, trust=true means that the places that its config names may be written to.
    """
    folders = [arg.removeprefix("resume=") for arg in argv if arg.startswith("resume=")]
    if not folders:
        return argv
    trust = "trust=true" in argv
    changes = list(filter(is_changeable, argv))
    known = ("trust=true", *changes)
    others = " ".join(arg for arg in argv if not arg.startswith(("resume=", SEARCH_PATH)) and arg not in known)
    if others or len(folders) > 1:
        raise UserError(
            f"resume={folders[0]}: expected no other key than {', '.join(CHANGEABLE)}, because a run is resumed with "
            f"its own config; got {others}"
        )
    folder = Path(folders[0])
    if not (folder / ".hydra" / "config.yaml").is_file():
        raise UserError(f"resume={folder}: expected the folder of a run; it has no .hydra/config.yaml")
    if not trust:
        check_config(read_config(folder), f"resume={folder}", config_dirs(argv))
        check_links(folder, f"resume={folder}")
    quoted = quote_path(folder.resolve())
    return [
        "hydra.output_subdir=null",
        f"hydra.run.dir={quoted}",
        f"resume={quoted}",
        *(f"++{change}" for change in changes),  # the defaults may lack the key
        *(["++trust=true"] if trust else []),
    ]
