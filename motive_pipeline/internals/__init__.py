"""What the pipeline uses of its libraries beyond their public interfaces: one file for each library.

Each file states in ``TESTED`` the versions that it was tested with; ``pyproject.toml`` holds the same bounds. Nothing else in the package
imports from a library's private or undocumented modules. Dagster's are in ``assets/dagster_internals.py``.
"""
