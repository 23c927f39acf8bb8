"""`python -m workbench`, which is how `./dev` calls it."""

from workbench.cli import main

if __name__ == "__main__":
    main()
