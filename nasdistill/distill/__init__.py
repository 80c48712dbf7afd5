"""Distillation: losses, connectors, the two stages and their loop."""
