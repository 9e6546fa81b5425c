"""Runs on many machines: Celery workers over Redis, with PostgreSQL as the book of record."""
