"""Calibrated probabilities of redshifts: the density p(z) of each galaxy and what follows from it."""
