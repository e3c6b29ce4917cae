"""The commands that help to set an installation up: init, doctor, completion.

May import what other commands do.
"""
