"""What samples say for an answer: features, and the head over them."""
