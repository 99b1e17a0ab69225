"""Tests of logitstore.text.contexts."""
