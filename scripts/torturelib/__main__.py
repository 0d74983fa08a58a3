"""The test bed in the Python that is running, whichever that is: `python -m torturelib`."""

from torturelib.cli import main

main()
