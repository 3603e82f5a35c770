"""A board reached by ssh: the near end of the connection (connection.py), and what runs at its far end (far.py)."""
