"""`python -m devtools`, which is how `./dev` calls it."""

from devtools.cli import main

if __name__ == "__main__":
    main()
