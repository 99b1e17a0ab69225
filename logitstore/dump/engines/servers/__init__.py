"""Servers of language models, which are asked over HTTP."""
