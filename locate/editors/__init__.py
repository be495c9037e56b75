"""Editors: what was located is changed, and the change proved."""
