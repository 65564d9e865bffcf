"""One file an objective: its path, what the network puts out, when it is asked and what counts. Door: `registry`."""
