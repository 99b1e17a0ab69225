"""Caches between storages: copied whole or in part, and how far they are."""
