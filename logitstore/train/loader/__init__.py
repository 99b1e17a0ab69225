"""From a cache to batches of tensors, in an order that depends on (samples, seed, epoch) alone."""
