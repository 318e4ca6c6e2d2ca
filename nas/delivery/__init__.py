"""Finalists, their ONNX files, and the front on disk."""
