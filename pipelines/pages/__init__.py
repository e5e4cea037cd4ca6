"""Web pages as documents: HTML in DOM order, without boilerplate, as candidates of five kinds."""
