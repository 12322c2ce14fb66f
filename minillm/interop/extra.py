"""Optional packages: imported where a function needs one, never when minillm is imported.

The formats of other projects need packages that minillm itself does not (`pip install "minillm[interop]"`).
"""

import importlib
from types import ModuleType


def extra(name: str) -> ModuleType:
    """Import an optional module. Raises ValueError, which says how to install it, where its package is missing."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as e:
        if e.name != name.partition(".")[0]:
            raise
        raise ValueError(
            f'{e.name}: expected this package to be installed, found none; pip install "minillm[interop]"'
        ) from e
