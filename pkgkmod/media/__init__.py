"""Driver disks."""
