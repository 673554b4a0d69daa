"""Clients that take minutes to install; each file runs in an environment of its own."""
