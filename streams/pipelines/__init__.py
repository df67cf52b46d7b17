"""Pipelines, one per file; no Kafka in them."""
