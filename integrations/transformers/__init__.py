"""In-process transformers models: one lane owns a model, requests are queued and batched."""
