"""Measured latency: devices, tables of blocks, and whole networks."""

import os

# ONNX Runtime reports home by default on Linux too, with digests of the models that it loads.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
