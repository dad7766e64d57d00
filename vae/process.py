"""What every command does to its own process before anything else."""

import errno
import io
import os
import sys
from typing import Any

from vae.terminal import escape_unencodable

GONE = (errno.EPIPE, errno.EIO, errno.EBADF)  # nobody reads the pipe; the terminal is closed; the file is closed


class OutputFile(io.FileIO):
    """A file for output that discards what nobody can read any more."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in GONE:
                raise
            return len(data)


def prepare_process() -> None:
    """Keep this process independent of where it was started.

    A closed stdout or stderr, as after `| head -1` or when a terminal is closed, does not stop the work. A plotting
    backend that a notebook has chosen for itself is not used here. Characters that stdout cannot encode are escaped.
    """
    os.environ["MPLBACKEND"] = "agg"
    while (
        unused := os.open(os.devnull, os.O_RDWR)
    ) <= 2:  # a file opened later would get the number of a closed stream
        os.set_inheritable(unused, True)
    os.close(unused)
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream, file = getattr(sys, name), OutputFile(number, "w", closefd=False)
        if stream is None:
            setattr(sys, name, io.TextIOWrapper(io.BufferedWriter(file)))
        elif stream is getattr(sys, f"__{name}__"):  # not replaced before, as by this function or by pytest
            stream.flush()
            buffer: Any = file if isinstance(stream.buffer, io.FileIO) else io.BufferedWriter(file)  # python -u or not
            options = stream.encoding, stream.errors, None, stream.line_buffering, stream.write_through
            setattr(sys, name, io.TextIOWrapper(buffer, *options))
    escape_unencodable()
