"""Compression inside a trial: structured pruning."""
