"""How stages run: Beam's runners, local worker processes, progress, and what is served meanwhile."""
