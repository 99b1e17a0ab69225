"""vLLM in this process: its hidden states, and the head of the checkpoint."""
