"""`python -m devtools`, which `./dev` runs."""

from devtools.cli import main

if __name__ == "__main__":
    main()
