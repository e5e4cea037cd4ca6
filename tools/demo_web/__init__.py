"""The demo web: a small web generated from a seed, in which the right result for every page is known.

`scene` says what an image shows and draws it; `wording` puts it into words (with `grammar`, and for longer texts
`english`, `german`, `french`, `spanish`). One module per site: `start`, `albums` (interleaved), `galleries` (pairs),
`maps` (grounded), `cinema` (video), `library` (text), `talks` (conversations), all built on `site`. `trap_table` lists
what must be refused, on the sites of `trap_sites`, made with `traps`, `trap_texts` and `broken_files`. `server` serves
all of it.
"""
