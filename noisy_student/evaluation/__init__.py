"""Metrics and tables of predictions."""
