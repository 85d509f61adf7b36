"""The built-in stages, one short file each."""
