"""Chat models: one module a vendor."""
