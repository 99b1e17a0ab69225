"""Tests of objectives on whole samples."""
