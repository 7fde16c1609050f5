"""MOTIVE: motion attribution for video generation, as a plain library.

Nothing in this package imports Dagster; the code location lives in the sibling package ``assets``.
"""

__version__ = "0.1.0"
