"""What stands beside a student while it trains, and changes what it learns from."""
