"""A task for the command of lmms-eval on images of the demo web: `dromaius_demo.yaml`; shapes.py shows and compares."""
