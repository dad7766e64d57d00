"""Read pickled arrays without running code."""

import pickle
import re
from typing import IO, Any

import numpy as np

GLOBALS = {
    *("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct"),
    *("numpy.ndarray", "numpy.dtype"),
}


class Pickled:
    """Stand-in for an array or its type while it is unpickled: it only stores the arguments and the state."""

    def __init__(self, *args: Any) -> None:
        self.args = args
        self.state: Any = ()

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def array(self) -> np.ndarray:
        """Return the array. Raises UnpicklingError if it has no numbers, and ValueError if it is damaged."""
        _version, shape, dtype, fortran, content = self.state
        code, (_, order, *_) = dtype.args[0], dtype.state
        if not re.fullmatch("[biuf][1248]", code):
            raise pickle.UnpicklingError(f"an array of the type {code}; expected numbers")
        data = content.encode("latin1") if isinstance(content, str) else content
        return np.frombuffer(data, np.dtype(code).newbyteorder(order)).reshape(shape, order="F" if fortran else "C")


class ArrayUnpickler(pickle.Unpickler):
    """Allow only the globals of a pickled array, and replace them. Raises UnpicklingError for any other global."""

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in GLOBALS:
            raise pickle.UnpicklingError(f"global {module}.{name} is forbidden")
        return Pickled


def load_pickle(file: IO[bytes]) -> Any:
    """Unpickle numbers, strings, lists and dicts, also of Python 2. Each array becomes a `Pickled`."""
    return ArrayUnpickler(file, encoding="latin1").load()
