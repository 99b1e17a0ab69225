"""Tests of logitstore.text.scored."""
