"""Parts of one run: budget, ledger, prompts, policies, and survival of failures.

May import protocols, settings, state, errors and support; no node, no vendor.
"""
