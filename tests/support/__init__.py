"""What several tests share: real programs on loopback, and makers of requests."""
