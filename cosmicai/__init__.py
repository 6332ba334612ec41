"""Photometric redshifts for all your galaxies, without a cluster."""

__version__ = "0.1.0"
