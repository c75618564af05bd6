"""Figures and tables of a model's predictions."""
