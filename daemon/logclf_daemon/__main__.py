"""`python -m logclf_daemon …`."""

from logclf_daemon.cli import main

if __name__ == "__main__":
    main(prog_name="logclf-daemon")
