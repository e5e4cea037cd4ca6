"""What is trained: pretrain, encoder, decoder, tune, and what they share."""
