"""The model: its files, how it is loaded, hooked and checked, and the plain network that editors change."""
