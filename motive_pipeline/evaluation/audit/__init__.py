"""The audit: how far the attribution of a project can be trusted. ``stage.py`` publishes it; docs/evaluation.md describes each check."""
