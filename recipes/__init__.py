"""Recipes that make the shipped models from nothing."""
