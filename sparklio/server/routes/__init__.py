"""The endpoints, a file for each thing that they serve. Each calls what the Python API calls."""
