"""The report: results of every evaluation as one JSON file and one page that needs nothing else."""
