"""Projects of other tools as project files: what they say, in our keys, and a report of what became of each value."""
