"""Figures, as ratios of one run on the same servers. `make bench` prints them and keeps JSON."""
