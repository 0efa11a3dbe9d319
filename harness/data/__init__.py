"""Which wells a run reads, in which order, and their way onto the device."""
