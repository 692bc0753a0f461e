"""What each part of a recipe is worth: a table of runs that differ in what a small TOML file says."""
