"""Run the command line with `python -m braid`."""

from braid.cli import main

if __name__ == "__main__":
    main()
