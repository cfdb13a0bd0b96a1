"""The gateway as a program: its settings and processes, what it listens on, forwards to and logs."""
