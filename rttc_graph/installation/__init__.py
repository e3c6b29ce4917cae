"""An installation: its configuration, and the parts that the configuration names, opened together.

May import everything but jobs, serving and cli.
"""
