"""The verbs for people: on the command line (cli/) and as a page (report/)."""
