"""logclf-daemon: give every log line an operational label, on the host, and pass it on.

From Python: `from logclf_daemon import Classifier`. It is loaded when it is asked for: the import alone costs nothing.
"""

from importlib import import_module

__version__ = "0.1.0"
__all__ = ["Classifier", "LineVerdict", "__version__"]


def __getattr__(name: str) -> object:
    if name in ("Classifier", "LineVerdict"):
        return getattr(import_module("logclf_daemon.classifier"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
