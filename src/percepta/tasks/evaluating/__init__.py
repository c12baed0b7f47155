"""What stands behind `evaluate`: the table of protocols, and a model as the callables that protocols take."""
