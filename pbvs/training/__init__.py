"""Losses, schedules, resumable state and the loop that trains."""
