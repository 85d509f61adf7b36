"""What a driver disk is put on."""
