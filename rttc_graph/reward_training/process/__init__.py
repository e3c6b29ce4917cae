"""Training probes: answers drawn step by step, labels by completion, and the fit."""
