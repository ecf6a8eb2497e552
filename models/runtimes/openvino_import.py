"""OpenVINO and NNCF, imported so that they report to nobody.

Both bring `openvino_telemetry`, which posts to Google Analytics unless the user has opted out in
a file of their home directory. Opsin opens no connection that it was not told to open. A module
that cannot be imported is one that both libraries are ready for: they take stubs in its place.
"""

import sys
from types import ModuleType

_REFUSED = "openvino_telemetry"


def import_openvino() -> ModuleType:
    """The `openvino` module.

    Raises:
        ImportError: It is not installed.
    """
    _refuse_telemetry()
    import openvino  # noqa: PLC0415  half a second, and only where it serves

    return openvino  # type: ignore[no-any-return]


def import_nncf() -> ModuleType:
    """The `nncf` module.

    Raises:
        ImportError: It is not installed.
    """
    _refuse_telemetry()
    import nncf  # noqa: PLC0415  seconds, and only for a quantization

    return nncf  # type: ignore[no-any-return]


def _refuse_telemetry() -> None:
    # None in sys.modules is Python's own way to say that a module cannot be imported.
    sys.modules.setdefault(_REFUSED, None)  # type: ignore[arg-type]
