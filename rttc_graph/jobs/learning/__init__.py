"""Whole jobs that change what the policy model itself answers.

May import `improvement` and everything that a job may.
"""
