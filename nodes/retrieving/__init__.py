"""What the node `retrieve` does before it searches: a follow-up becomes a question of its own."""
