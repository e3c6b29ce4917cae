"""Views: questions, samples and answers written otherwise, and answers read back from there."""
