"""Small trained parts in a large frozen model: what is added, where it goes, and how it is taken out again."""
