"""What training adds to recall, and what placebos recall."""
