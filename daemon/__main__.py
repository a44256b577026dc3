"""`python daemon …` runs the command line from a checkout."""

from logclf_daemon.cli import main

if __name__ == "__main__":
    main()
