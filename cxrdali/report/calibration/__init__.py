"""The page on calibration."""
