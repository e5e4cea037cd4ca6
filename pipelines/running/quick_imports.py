"""Imports of the stages in three quarters of the time.

Apache Beam and pyarrow look for pandas, which img2dataset has installed, and Beam for pymongo; no pipeline of ours uses
them. Nothing that is imported is garbage, but Python looks for some all the while.
"""

import contextlib
import gc
import sys
from collections.abc import Iterator
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from typing import Any

_UNUSED = ("pandas", "pymongo")


class _Hiding(MetaPathFinder):
    """Finder by which the unused packages are not installed."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if fullname in _UNUSED:
            raise ModuleNotFoundError(f"{fullname} is hidden while the stages are imported", name=fullname)
        return None


@contextlib.contextmanager
def quick_imports() -> Iterator[None]:
    """Import what the block imports without the unused packages; whoever imports these later gets them.

    Afterwards no search for garbage looks at what is there now, nor copies it in a forked process.
    """
    hiding = _Hiding()
    sys.meta_path.insert(0, hiding)
    gc.disable()
    try:
        import pyarrow as pa  # not at the top: `--help` needs no Arrow

        pa.array([0])  # it looks for pandas when it first makes an array of a list, and then no more
        yield
    finally:
        sys.meta_path.remove(hiding)
        gc.freeze()
        gc.enable()
