"""Fast twins of plain classes and functions, used only while the plain source is the one that they were tested with."""
