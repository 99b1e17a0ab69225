"""What a chat template makes of the turns of a chat."""
