"""What stands behind `select`: kept features, what was found, and its picture."""
