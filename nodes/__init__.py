"""The nodes of the state machine, one state a file."""
