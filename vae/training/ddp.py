"""Launch a run in one process or, with trainer=ddp, in several that train one model. Nothing here imports torch."""

import logging.config
import multiprocessing
import os
import signal
import socket
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

from vae.errors import UserError
from vae.training.signals import STOP_SIGNALS, exit_if_signalled, exit_on_signal, handle_signals, restore_handlers

SHUTDOWN_TIMEOUT = 60  # seconds to exit, and to finish the upload to W&B, after another process has failed


def launch(cfg: DictConfig, folder: Path) -> None:
    """Run the config in `folder`: in trainer.devices new processes, or in this one if that key is not set."""
    exit_if_signalled()
    if "devices" in cfg.trainer:
        if (tasks := os.environ.get("SLURM_STEP_NUM_TASKS", "1")) != "1":
            expected = "expected one Slurm task, which itself starts the processes of trainer.devices"
            raise UserError(f"trainer.devices={cfg.trainer.devices}: {expected}; this step has {tasks} tasks")
        run_distributed(cfg, folder)
    else:
        run_single(cfg, folder)


def run_single(cfg: DictConfig, folder: Path, rank: int = 0) -> None:
    """Run in this process."""
    from pytorch_lightning.utilities import rank_zero_only

    from vae.training.experiment import run

    rank_zero_only.rank = rank  # type: ignore[attr-defined]
    run(cfg, folder)


def run_distributed(cfg: DictConfig, folder: Path) -> None:
    """Run in several new processes, and raise the first error of any of them.

    The processes are forked from a server that has imported torch but not used it: forks of a process that has used
    torch can use neither the GPU nor several threads. Each process has its own process group, so a Ctrl-C in the
    terminal reaches only this process, which forwards it once.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pytorch_lightning"])
    # silences DDP's warning that find_unused_parameters found none
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    logging_config = OmegaConf.to_container(HydraConfig.get().job_logging, resolve=True)
    processes: dict[Any, BaseProcess] = {}  # by the pipe that receives the result

    def forward_signal(signum: int, _frame: FrameType | None) -> None:
        for process in processes.values():
            if process.is_alive():
                os.kill(process.pid or 0, signum)

    resource_tracker.ensure_running()  # starting it later would unblock the signals
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)  # until there are processes to forward them to
    for rank in range(cfg.trainer.devices):
        reader, writer = context.Pipe(duplex=False)
        processes[reader] = context.Process(target=worker, args=(rank, port, logging_config, writer, cfg, folder))
        processes[reader].start()
        writer.close()
    previous_handlers = handle_signals(forward_signal)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    errors = wait_for(processes)
    restore_handlers(previous_handlers)
    if errors:
        raise errors[0]


def wait_for(processes: dict[Any, BaseProcess]) -> list[BaseException]:
    """Wait for all processes to exit; return their errors in order.

    After the first error, kill the processes that have not exited within SHUTDOWN_TIMEOUT seconds.
    """
    errors: list[BaseException] = []
    running = dict(processes)
    while running:
        ready = wait(running, SHUTDOWN_TIMEOUT if errors else None)
        for reader in ready:
            if error := receive_result(running.pop(reader), reader):
                errors.append(error)
        for process in running.values():
            if not ready:
                process.kill()
    for process in processes.values():
        process.join()
    return errors


def receive_result(process: BaseProcess, reader: Any) -> BaseException | None:
    """Return the error a process sent, or an error if it exited without a result. None means success."""
    try:
        return reader.recv()
    except Exception as error:  # noqa: BLE001 (it exited without a result, or its error cannot be unpickled)
        process.join()
        return ChildProcessError(f"trainer=ddp: a process exited with code {process.exitcode} ({type(error).__name__})")


def worker(rank: int, port: int, logging_config: dict[str, Any], writer: Any, cfg: DictConfig, folder: Path) -> None:
    """Run as one of the processes, and send the error or None to the parent. Only rank 0 prints."""
    os.setpgid(0, 0)
    exit_on_signal()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    Thread(target=watch_parent, daemon=True).start()
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    if rank == 0:
        logging.config.dictConfig(logging_config)
    else:
        for output in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), output)
    try:
        run_single(cfg, folder, rank)
        writer.send(None)
    except BaseException as error:  # noqa: BLE001 (the parent raises it)
        error.add_note(traceback.format_exc())
        with suppress(BrokenPipeError):  # the parent has exited
            writer.send(error)


def watch_parent() -> None:
    """Interrupt this process if its parent is killed; exit if it has not stopped after SHUTDOWN_TIMEOUT seconds."""
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(SHUTDOWN_TIMEOUT)
        os._exit(1)
