"""Tests of the task of ranking."""
