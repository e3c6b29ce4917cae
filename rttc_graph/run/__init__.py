"""Parts of one run: budget, ledger, prompts, policies, the τr rule, failures of backends.

May import protocols, settings, state, errors and support; no node, no vendor.
"""
