"""Execution of stages: Beam's runners, local worker processes, progress, and servers for the time of a run."""
