"""The ground of the package: values, records, registries, random numbers and orders that repeat, the table of tasks."""
