"""What readers of other packages see of a cache: its values, as Zarr arrays and as a data set of xarray."""
