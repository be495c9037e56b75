"""Pages: report.html of a run, of a comparison and of an evaluation, each one file that sends nothing anywhere."""
