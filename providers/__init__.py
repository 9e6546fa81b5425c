"""The only code that knows a vendor: two interfaces, their errors, and one module a vendor."""
