"""Drills: real processes under a running workload, killed at every point, and a checker that reads every database."""
