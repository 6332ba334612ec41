"""The command line, for `python -m cosmicai`."""

from cosmicai.cli import main

if __name__ == "__main__":
    main()
