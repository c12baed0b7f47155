"""The verbs in Python: wiring of models, media and results. Each file is one verb; results come one by one."""
