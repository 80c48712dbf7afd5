"""Devices: what latency is measured on, and how it is measured there."""
