"""`python -m meshwarden.cli`, for where the console script is not on the path."""

from meshwarden.cli import main

main()
