"""The Dagster code location: one module for each room of the library, thin; the method is in ``motive_pipeline``."""
