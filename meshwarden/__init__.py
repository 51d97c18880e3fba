"""The command line, and what every service shares; knows no service's rules."""
