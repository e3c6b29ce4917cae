"""Raw scores to the probability that an answer is right, and a τr that follows from an aim."""
