"""Released models as runs: import into a run's folder, and export of a run in a release's form.

settings     settings of a release, from its tensors and the files beside them
importing    a release into a run's folder
exporting    a run's model in the files of a release
"""
