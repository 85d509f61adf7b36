"""Entry point of the command `pkgkmod`."""

from pkgkmod.cli import main

if __name__ == "__main__":
    main()
