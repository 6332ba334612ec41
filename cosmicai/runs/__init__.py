"""Runs of a deployment: start, follow, download; and a rank on this machine."""
