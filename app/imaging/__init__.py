"""Grids and files. Knows no ONNX, no HTTP, no jobs."""
