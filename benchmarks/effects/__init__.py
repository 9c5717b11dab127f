"""What training effects a small network shows on the synthetic release."""
