"""The command line: each verb is a module."""
