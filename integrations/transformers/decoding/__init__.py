"""From admitted requests to tokens: the running batch, the prompt cache, drafts, sampling, text.

May import the loaded model of the room above, protocols and support.
"""
