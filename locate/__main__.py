"""`python -m locate` is `locate-bias`."""

from locate.cli import main

if __name__ == "__main__":
    main()
