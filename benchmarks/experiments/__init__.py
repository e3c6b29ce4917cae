"""Studies behind a default or a decision: programs of their own, figures in docs/experiments.md."""
