"""Evaluation of a finished run, as figures and as samples to look at. Only the command line imports it."""
