"""`python -m smartsite` is the command `smartsite`."""

from smartsite.cli import main

if __name__ == "__main__":
    main()
