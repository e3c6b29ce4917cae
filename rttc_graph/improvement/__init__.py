"""Self-training: adapters that stand for domains, trained from accepted answers.

May import `evaluation`, `run`, `samples` and `search`.
"""
