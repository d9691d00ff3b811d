"""`python -m evomerge`: the command line, where its script is not on the PATH."""

from evomerge.cli import main

if __name__ == "__main__":
    main()
