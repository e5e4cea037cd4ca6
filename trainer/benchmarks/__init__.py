"""`evaluate --tasks`: published benchmarks and one's own, zero-shot and few-shot, from small YAML files.

```
settings.py    a benchmark's YAML file
formats/       the forms in which sets are published, and one question with its true answers (example.py)
shots.py       which examples come before a question: at random, or by similarity (RICES)
prompts.py     examples and question as the model reads them, as many as it has room for
descriptions.py  what the model itself says of images before it is asked about them (Emu's first step)
answer_file.py answers as they are made, one JSON line each; a rerun continues
evaluate.py    answers, scores, results.json, a sheet of images, a curve over the number of shots
metrics/       what answers are worth, with confidence intervals · drawings.py  what drawn images are worth
papers/ demo/  the benchmarks themselves
lmms_eval_model.py  the model for lmms-eval's own command · lmms_eval/  a task for it
```
"""
