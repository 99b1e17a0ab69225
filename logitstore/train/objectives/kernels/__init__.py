"""How objectives are computed: fused, in place, in chunks of rows, from logits or from hidden states."""
