"""What stands between a run and the loop of the Hugging Face Trainer: its arguments, and what happens beside its steps."""
