"""What a finished run can do, as figures and to look at. Imported by the command line alone."""
