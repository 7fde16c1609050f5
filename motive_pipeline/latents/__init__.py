"""Latents and prompt embeddings of clips and queries."""
