"""Fast twins of plain classes and functions: one trick a file, used only while the plain source is the one that it was tested against."""
