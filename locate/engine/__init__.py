"""The two ways to run patched rows: the sweep, and the plain engine it is checked against."""
