"""`python -m salama` is the `salama` command."""

from salama.cli.main import main

if __name__ == "__main__":
    main()
