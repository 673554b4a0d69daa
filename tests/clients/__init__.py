"""Clients that other people wrote, and a browser, against the real server; see `run`."""
