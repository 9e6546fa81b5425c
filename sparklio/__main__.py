"""``python -m sparklio`` is the command line."""

from sparklio.cli import main

if __name__ == "__main__":
    main()
