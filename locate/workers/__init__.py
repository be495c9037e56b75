"""Where chunks of rows are run besides this process: other processes, other machines."""
