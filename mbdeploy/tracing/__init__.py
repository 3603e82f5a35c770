"""Where in a graph a failure begins: cuts that keep fusion as it is, a search over them, and a script that shows it."""
