"""Pages and lists about what was built: for people, and for programs."""
