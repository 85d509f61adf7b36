"""Other people's drivers: how many of a distribution's dkms packages can be imported and built."""
