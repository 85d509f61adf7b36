"""What is wrong with finished modules."""
