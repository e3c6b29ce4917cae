"""Threads and queues between coroutines and work that blocks.

May import errors and support alone.
"""
