"""The laws that a metric may follow, and what is believed of their parameters beforehand."""
