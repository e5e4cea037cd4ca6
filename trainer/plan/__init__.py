"""Which sample is trained on when: mixture, order, packing and the plan. No torch, no model."""
