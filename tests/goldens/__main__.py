"""The command of `make goldens`."""

from tests.goldens.check import main

if __name__ == "__main__":
    main()
