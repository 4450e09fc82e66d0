"""What this provider costs, beside the official SDK and a loop that does the least: ``make bench``."""
