"""Measured latency: devices, tables of blocks, and whole networks."""
