"""What to measure next: a run with controls, within a budget, and with sets of sites."""
