"""Many runs by one command: protocols as lists of jobs, a `result.json` each, on one machine or many."""
