"""Answers that a server generates and says logprobs of: how they are asked for, matched with token ids, kept and read."""
