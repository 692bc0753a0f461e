"""Speed as ratios to what a user would do otherwise: `python -m tests.benchmarks [part ...] [--quick] [--save]`."""
