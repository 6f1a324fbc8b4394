"""Running a finished run again: where its recipe comes from, what differs on this machine, and whether the same came
out."""
