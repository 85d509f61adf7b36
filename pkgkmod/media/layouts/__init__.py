"""What installers read on a driver disk."""
