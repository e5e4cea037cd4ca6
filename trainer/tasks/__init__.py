"""Training tasks: pretrain, encoder, decoder, tune, and what they share."""
