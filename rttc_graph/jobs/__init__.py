"""Whole jobs: collecting rows, running policies, training a reward model, the demo.

The command line and a server call them; they may import everything but cli and serving.
"""
