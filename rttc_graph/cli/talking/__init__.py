"""`rttc chat`: a conversation in the terminal.

May import what other commands do.
"""
