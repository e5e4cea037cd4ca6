"""Web pages as documents: HTML in the order of its DOM, boilerplate off, five kinds of candidates."""
