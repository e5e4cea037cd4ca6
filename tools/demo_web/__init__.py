"""The demo web: a small web made up from a seed, of which everything is known.

`scene` is what a picture shows and how it is drawn, `wording` how that is said (with `grammar`, and for longer texts
`english`, `german`, `french`, `spanish`). A module a site: `start`, `albums` (interleaved), `galleries` (pairs), `maps`
(grounded), `cinema` (video), `library` (text), all on top of `site`. What must be refused stands in `trap_table`, on
the sites of `trap_sites`, made of `traps`, `trap_texts` and `broken_files`. `server` serves it all.
"""
