"""The object store that the benchmarks use too."""

from __future__ import annotations

from benchmarks.object_server import BUCKET, served, variables

__all__ = ["BUCKET", "served", "variables"]
