"""A run in one process or, for trainer=ddp, in several that train one model together. Nothing here imports torch."""

import logging.config
import multiprocessing
import os
import signal
import socket
import sys
import time
import traceback
from contextlib import suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Thread
from types import FrameType
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

SHUTDOWN_TIMEOUT = 60  # seconds to end by oneself, and to send what W&B has not yet, once another process has failed
STOP = {signal.SIGINT, signal.SIGTERM}


def run(cfg: DictConfig, folder: Path) -> None:
    """The run of this config in its folder, in as many processes as trainer.devices says; without that, in this one."""
    if "devices" in cfg.trainer:
        together(cfg, folder)
    else:
        alone(cfg, folder)


def alone(cfg: DictConfig, folder: Path) -> None:
    from vae.training.experiment import run

    run(cfg, folder)


def together(cfg: DictConfig, folder: Path) -> None:
    """The whole run in each of several new processes; the first error among them is raised here.

    They are forks of a server that has imported torch and used nothing of it: those of this process could use neither
    the GPU nor several threads once it has. Each is a group of its own, so that Ctrl-C is what is passed on, once.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pytorch_lightning"])
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # or DDP warns that no parameter is left out
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    logs = OmegaConf.to_container(HydraConfig.get().job_logging, resolve=True)
    ranks: dict[Any, BaseProcess] = {}  # by where they say how they ended

    def pass_on(signum: int, _frame: FrameType | None) -> None:
        for process in ranks.values():
            if process.is_alive():
                os.kill(process.pid or 0, signum)

    resource_tracker.ensure_running()  # which unblocks signals
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP)  # until they can be passed on, and there is who understands them
    for rank in range(cfg.trainer.devices):
        reader, writer = context.Pipe(duplex=False)
        ranks[reader] = context.Process(target=worker, args=(rank, port, logs, writer, cfg, folder))
        ranks[reader].start()
        writer.close()
    before = {signum: signal.signal(signum, pass_on) for signum in STOP}
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP)
    errors = wait_for(ranks)
    for signum, handler in before.items():
        signal.signal(signum, handler)
    if errors:
        raise errors[0]


def wait_for(ranks: dict[Any, BaseProcess]) -> list[BaseException]:
    """The errors of the processes, in order. After the first error, the others have SHUTDOWN_TIMEOUT seconds to end."""
    errors: list[BaseException] = []
    running = dict(ranks)
    while running:
        ended = wait(running, SHUTDOWN_TIMEOUT if errors else None)
        for reader in ended:
            if error := outcome(running.pop(reader), reader):
                errors.append(error)
        for process in running.values():
            if not ended:
                process.kill()
    for process in ranks.values():
        process.join()
    return errors


def outcome(process: BaseProcess, reader: Any) -> BaseException | None:
    """The error a process has sent, or has not been able to."""
    try:
        return reader.recv()
    except Exception as error:  # noqa: BLE001 (it ended without a word, or with one that cannot be read)
        process.join()
        return ChildProcessError(f"trainer=ddp: a process ended with code {process.exitcode} ({type(error).__name__})")


def worker(rank: int, port: int, logs: dict[str, Any], writer: Any, cfg: DictConfig, folder: Path) -> None:
    """The run as the process of this rank has it; the first alone has something to say."""
    from pytorch_lightning.utilities import rank_zero_only

    os.setpgid(0, 0)
    for signum in STOP:
        signal.signal(signum, lambda signum, _frame: sys.exit(128 + signum))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP)
    Thread(target=watch_parent, daemon=True).start()
    rank_zero_only.rank = rank  # type: ignore[attr-defined]
    os.environ |= {"LOCAL_RANK": str(rank), "MASTER_PORT": str(port)}
    if rank == 0:
        logging.config.dictConfig(logs)
    else:
        for output in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), output)
    try:
        alone(cfg, folder)
        writer.send(None)
    except BaseException as error:  # noqa: BLE001 (it is raised where the run was started)
        error.add_note(traceback.format_exc())
        with suppress(BrokenPipeError):  # nobody is left to be told
            writer.send(error)


def watch_parent() -> None:
    """Ctrl-C, should the process that started this one be killed; and an end, should this one be stuck."""
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(SHUTDOWN_TIMEOUT)
        os._exit(1)
