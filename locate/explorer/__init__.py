"""The live page: a run, or two, and prompts of your own, in a browser on this machine alone."""
