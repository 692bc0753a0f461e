"""The networks, as plain modules that know nothing of files."""
