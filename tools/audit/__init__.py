"""`audit`: hold a finished corpus against what it says of itself.

`command` is the command line, `audit` runs the checks and reports. `shards` audits one shard, in the same way for
`processes` and `beam`: it reads the tar once (`tar_reader`) and hands each sample to `samples`, `media`, `evidence` and
`sidecars`. `duplicates` finds what different samples share; `sources` looks at the indexes of a source, `whole` at what
describes the corpus as a whole. Every fault that can be found is in the table of `faults`.
"""
