"""`python -m nasdistill`: the command line where no script is on the path."""

from nasdistill.cli import main

if __name__ == "__main__":
    main()
