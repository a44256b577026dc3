"""Tables of any size: how they are read, written and taken up again. `logclf_daemon.table` is the way in."""
