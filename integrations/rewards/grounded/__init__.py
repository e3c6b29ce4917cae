"""Evidence of the samples for an answer: features, and the head over them."""
