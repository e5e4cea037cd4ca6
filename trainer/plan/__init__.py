"""Training schedule: mixture, order, packing and the plan of each step. No torch, no model."""
