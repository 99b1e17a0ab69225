"""What a run must fulfil before any weights are loaded."""
