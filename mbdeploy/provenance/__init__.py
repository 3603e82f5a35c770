"""Where the files of an output folder come from, and whether they are still what was made."""
