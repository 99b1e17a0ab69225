"""The engine `logitstore` of xarray: `xarray.open_dataset("my-cache")` opens the values of a cache."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from xarray.backends import ZarrBackendEntrypoint

from logitstore.core.place import split_scheme
from logitstore.format.manifest import MANIFEST_NAME
from logitstore.store.values.zarr_store import ValuesStore


class CacheBackend(ZarrBackendEntrypoint):  # type: ignore[misc]
    """xarray's reader of Zarr, given the view of values of a cache."""

    description = "Open the values of a cache of logitstore"
    url = ""
    supports_groups = False
    open_dataset_parameters = ("filename_or_obj", "drop_variables")

    def guess_can_open(self, filename_or_obj: Any) -> bool:
        """Return True for a folder on the local disk that has the manifest of a cache."""
        if not isinstance(filename_or_obj, str | os.PathLike):
            return False
        place = os.fspath(filename_or_obj)
        return not split_scheme(place)[0] and (Path(place) / MANIFEST_NAME).is_file()

    def open_dataset(self, filename_or_obj: Any, *, drop_variables: Any = None) -> Any:
        """Return the data set. Raises NotACache, CacheDamaged, BadInput: see `logitstore.open`.

        Args:
            filename_or_obj: the folder of a cache, or its address.
            drop_variables: names of arrays to leave out.
        """
        return super().open_dataset(ValuesStore(filename_or_obj), drop_variables=drop_variables)
