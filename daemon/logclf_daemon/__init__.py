"""logclf-daemon: give every log line an operational label, on the host, and pass it on."""

__version__ = "0.1.0"
