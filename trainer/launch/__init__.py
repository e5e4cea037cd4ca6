"""Starting a run: `torchrun.sh` without a scheduler (by `elastic.py`), `slurm.sh`, and a hostfile for deepspeed."""
