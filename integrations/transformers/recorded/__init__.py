"""Work on tensors that stay where they are: recorded once on a GPU, then replayed."""
