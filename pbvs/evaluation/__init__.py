"""From predictions and targets to numbers that can be believed."""
