"""The cases of `python -m benchmarks`: each measures one claim beside a peer in the same run."""
