"""One slide over the machines of a Dask cluster."""
