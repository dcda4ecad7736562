"""Stand-ins for the classes that training tools put beside the weights: they keep what they are given, and do nothing.

A pickled file names classes. Those below occur in honest training files; none of their own code is run.
"""

import struct
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, cast


class Inert:
    """What some class of a training tool would have been."""

    args: tuple[Any, ...] = ()

    def __init__(self, *args: Any) -> None:
        self.args = args

    def __setstate__(self, state: Any) -> None:
        """Nothing of it is used."""


class InertType(Inert):
    """A numpy dtype, by its short name."""


class InertNumber(Inert):
    """A numpy number: its dtype and its bytes."""


INERT: tuple[tuple[Callable[..., Any], str], ...] = (
    *((Inert, name) for name in ("argparse.Namespace", "types.SimpleNamespace")),
    *((Inert, f"pathlib.{name}") for name in ("PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath")),
    *((Inert, f"pathlib._local.{name}") for name in ("PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath")),
    (InertType, "numpy.dtype"),
    *((InertNumber, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *(
        (OrderedDict, f"{module}.AttributeDict")
        for module in (
            "pytorch_lightning.utilities.parsing",
            "lightning.pytorch.utilities.parsing",
            "lightning_fabric.utilities.data",
            "lightning.fabric.utilities.data",
        )
    ),
)
_FORMATS = {"f8": "d", "f4": "f", "f2": "e", "i8": "q", "i4": "i", "i2": "h", "i1": "b", "u1": "B", "b1": "?"}


def plain(value: Any) -> Any:
    """A numpy number as a number of Python, where its bytes say one; anything else as it is."""
    if not isinstance(value, InertNumber) or len(value.args) != 2:
        return value
    kind, raw = value.args
    said = str(kind.args[0]) if isinstance(kind, InertType) and kind.args else ""
    code = _FORMATS.get(said.lstrip("<=|"))
    if code is None or not isinstance(raw, bytes) or len(raw) != struct.calcsize(code):
        return value
    return cast(float, struct.unpack(f"<{code}", raw)[0])


__all__ = ["INERT", "Inert", "InertNumber", "InertType", "plain"]
