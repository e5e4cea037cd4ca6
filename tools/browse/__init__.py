"""A local web page of a corpus: its samples as what they are, its drops, and what a run was trained on.

`command` starts it. `app` has the routes, and `static_site` writes a part of it as files. Both draw `views` by the
templates, with text made safe by `rendering`. `lookup` makes the files by which a million samples are paged as fast as
a thousand, `catalogue` asks them by `filters`, `words` has the texts, `reading` the bytes in tars, `training` the runs.
"""
