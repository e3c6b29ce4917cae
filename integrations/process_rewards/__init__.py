"""Process reward models: judges of answers that are not finished yet, step by step."""
