"""Test-time training: LoRA adapters trained, kept resident and applied row by row."""
